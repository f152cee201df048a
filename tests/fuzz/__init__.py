"""Hostile files and messages, drawn from a seed: `python -m tests.fuzz`, or `make fuzz`."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz import graphs, json_files, programs
from tests.fuzz.case import Maker

KINDS: Mapping[str, Maker] = {
    "graphs": graphs.make,
    "json": json_files.make,
    "programs": programs.make,
}
