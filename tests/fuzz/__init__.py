"""Hostile files and messages, drawn from a seed: `python -m tests.fuzz`, or `make fuzz`."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz import archives, checkpoints, graphs, json_files, messages, programs, samples, texts
from tests.fuzz.case import Maker

KINDS: Mapping[str, Maker] = {
    "archives": archives.make,
    "checkpoints": checkpoints.make,
    "graphs": graphs.make,
    "json": json_files.make,
    "messages": messages.make,
    "programs": programs.make,
    "samples": samples.make,
    "texts": texts.make,
}
