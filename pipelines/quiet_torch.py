"""Imports Brevitas once without torch's remark "No CUDA runtime is found" in the user's sight.

torch prints it, rather than warns, where a CUDA compiler is installed and no GPU is.
"""

import contextlib
import io

with contextlib.redirect_stderr(io.StringIO()):
    import brevitas.nn  # noqa: F401
