"""Measurements on disk, each kept as soon as it exists: an interruption at any point loses none.

One folder holds what one machine measured with one set of releases; anything else found there is
set aside, never mixed in.

    about.json              whose measurements these are
    <part>.json             a finished part
    <part>/<key>.json       a measurement of a part that is not finished yet
    models/<name>-<digest>  trained models, kept between runs
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, versions

ABOUT = "about.json"
KEPT = ("models", "results")


class Store:
    """A folder of measurements of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        about = {"machine": machine(), "versions": versions()}
        found = read(folder / ABOUT)
        if found != about:
            if found is not None:
                said = "are of another machine or of other releases: not used, measured anew"
                print(f"{folder}: the measurements there {said}", file=sys.stderr)
            for path in folder.iterdir():
                if path.name not in KEPT:
                    self.forget(path.stem)
            write(folder / ABOUT, about)

    @property
    def models(self) -> Path:
        """Where trained models stay."""
        return self.folder / "models"

    def part(self, name: str) -> dict[str, Any] | None:
        """A finished part; None if there is none."""
        return read(self.folder / f"{name}.json")

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Keep a part's result and drop the measurements it was made of."""
        write(self.folder / f"{name}.json", result)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def forget(self, name: str) -> None:
        """Drop everything of a part."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def keep(self, part: str, key: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """The measurement `key` of an unfinished part: as stored, or made and stored now."""
        path = self.folder / part / f"{key}.json"
        found = read(path)
        if found is None:
            found = {"value": make(*arguments)}
            write(path, found)
        return found["value"]


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no whole one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=2) + "\n")
    draft.replace(path)
