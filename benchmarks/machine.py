"""Where and with what a measurement was made: what every result carries."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from torusformer.versions import RECORDED, installed_versions


def machine() -> dict[str, Any]:
    """Processor and the threads that one run may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    return {"processor": names[0] if names else platform.processor(), "threads": threads}


def versions() -> dict[str, str]:
    """Releases of this project, of what it runs on, and of what it is compared with."""
    return {**installed_versions(RECORDED), "concrete-ml": metadata.version("concrete-ml")}


def today() -> str:
    """ISO date."""
    return datetime.date.today().isoformat()
