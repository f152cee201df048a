"""The stages of a demo, each announced and timed, and the report at their end."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torusformer.versions import installed_versions

REPORT = "report.json"


class Stages:
    """Announces each stage on stderr and keeps its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[None]:
        """The block that follows is the stage `name`, which does `what`."""
        print(f"{name}: {what}", file=sys.stderr)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)


def write_report(folder: Path, report: Mapping[str, Any], stages: Stages) -> dict[str, Any]:
    """Write report.json, with seconds of the stages, peak memory and releases; what it says."""
    whole = {
        **report,
        "seconds": stages.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": installed_versions(),
    }
    (folder / REPORT).write_text(json.dumps(whole, indent=2) + "\n")
    return whole


def peak_memory_bytes() -> int:
    """Of this process since its start."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
