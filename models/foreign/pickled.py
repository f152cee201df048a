"""`pytorch_model.bin` files in, safetensors files out, by a process that may die of them.

The child unpickles tensors and nothing else (`weights_only`), in bounded memory and time; what it
writes is then read like any foreign safetensors file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from torusformer import ArtifactError

_CHILD = Path(__file__).with_name("pickled_child.py")
_PATIENCE = 60.0  # seconds to start torch, on a machine that does much else
_SLOWEST = 10 << 20  # bytes a second


def to_safetensors(targets: Mapping[Path, Path]) -> None:
    """Write the tensors of each file into its target.

    Raises:
        ArtifactError: one holds anything but named tensors, or the child died of it.
    """
    limit = _PATIENCE + sum(path.stat().st_size for path in targets) / _SLOWEST
    paths = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    files = [str(path) for pair in targets.items() for path in pair]
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_CHILD), *files],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise _refused(targets, f"nothing was read in {limit:.0f} seconds") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise _refused(targets, f"the process that read it ended with {name}")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _refused(targets, said[-1][:200] if said else f"exit code {done.returncode}")


def _refused(targets: Mapping[Path, Path], why: str) -> ArtifactError:
    path = next((path for path, new in targets.items() if not new.exists()), next(iter(targets)))
    return ArtifactError(
        f"{path} holds no tensors that can be read safely ({why}); save it as model.safetensors"
    )
