"""Mutated JSON beside artefacts: `versions.json`, so far."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.case import Case
from torusformer.versions import read_versions, write_versions


def make(seed: int, folder: Path) -> Case:
    """A file with some bytes changed."""
    rng = random.Random(seed)
    write_versions(folder, "deployment")
    path = folder / "versions.json"
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    return Case("bytes of versions.json", lambda: read_versions(folder, "deployment") and None)
