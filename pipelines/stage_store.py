"""Stages of a long command: each is done once, kept all or nothing, and read back from its folder.

What the next stage begins with is always what lies on the disk, so a command that was interrupted
ends as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from torusformer import ArtifactError
from torusformer.folders import is_ours, output_folder
from torusformer.models import Task
from torusformer.pipelines.transfer import load_answers, save_answers
from torusformer.quantize import History
from torusformer.strict_json import read_json

STAGES, ARTEFACT, ABOUT = "stages", "stage", "stage.json"


class Kept(Protocol):
    """A model that can be kept."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it."""

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read it."""


Model = TypeVar("Model", bound=Kept)


@dataclass(frozen=True)
class Done:
    """What a stage came to: the task's measure on held-out and on training samples."""

    stage: str
    widths: str
    held_out: float
    training: float
    epochs: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, stage: str, widths: str, history: History, epochs: int) -> Done:
        """A stage that was a training."""
        return cls(stage, widths, history.test, history.train, epochs, history.seconds)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, rounded."""
        values = dataclasses.asdict(self)
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


class StageStore:
    """The stages of one folder, `count` of them; `done` are those that were asked for, in order."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder / STAGES, count
        self.done: list[Done] = []
        self._number = 0

    def model(self, name: str, kind: type[Model], make: Callable[[], tuple[Model, Done]]) -> Model:
        """What `make` made, now or before, as it lies on the disk."""

        def write(folder: Path) -> dict[str, Any]:
            model, about = make()
            model.save_pretrained(folder)
            return dataclasses.asdict(about)

        self._keep(name, self._read(name, write))
        return kind.from_pretrained(self.folder / name)

    def texts(self, name: str, task: Task, make: Callable[[], Task]) -> Task:
        """The task with what `make` extended it by, now or before, as it lies on the disk."""

        def write(folder: Path) -> dict[str, Any]:
            new = make()
            save_answers(new, folder)
            return {"texts": len(new.x_train)}

        self._read(name, write)
        return load_answers(task, self.folder / name)

    def note(self, name: str, make: Callable[[], Done]) -> None:
        """A stage that leaves no model."""
        self._keep(name, self._read(name, lambda folder: dataclasses.asdict(make())))

    def numbers(self, name: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """A stage that is no training."""
        found = self._read(name, lambda folder: make())
        return {str(k): float(v) for k, v in found.items()}

    def _read(self, name: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        place = self.folder / name
        self._number += 1
        here = f"stage {self._number} of {self.count}, {name}"
        if is_ours(place, ARTEFACT):
            print(f"{here}: done before", file=sys.stderr)
        else:
            print(here, file=sys.stderr)
            with output_folder(place, ARTEFACT) as new:
                (new / ABOUT).write_text(json.dumps(write(new), indent=2) + "\n")
        try:
            found = read_json(place / ABOUT)
        except (OSError, ValueError) as error:
            raise self._damaged(name) from error
        if not isinstance(found, dict):
            raise self._damaged(name)
        return found

    def _keep(self, name: str, about: dict[str, Any]) -> None:
        try:
            self.done.append(Done(**about))
        except TypeError as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> ArtifactError:
        return ArtifactError(
            f"{self.folder / name}: is damaged; remove it, and the same command does it again"
        )
