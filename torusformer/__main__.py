"""`python -m torusformer`: the command line."""

from __future__ import annotations

from torusformer.pipelines.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
