"""The stages of a demo: each announced, each timed."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


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


def peak_memory_bytes() -> int:
    """Of this process since its start."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
