"""The folder of a float model in, a teacher for a task out, and whether it needs a head first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torusformer import ArtifactError, InputError
from torusformer.models import Task, Transformer
from torusformer.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from torusformer.models.teacher import Teacher, has_answers, with_head
from torusformer.pipelines.training import FLOAT
from torusformer.strict_json import read_json

IMPORTED = "import.json"  # what `import` leaves beside a model
VIT = "vit"


@dataclass(frozen=True, eq=False)
class Found:
    """A float model, whether it is an imported ViT, names of its classes where they are known."""

    model: Transformer
    images: bool = False
    labels: tuple[str, ...] = ()

    def ready(self, task: Task) -> bool:
        """Whether it answers the task as it is; if not, a head has to be trained.

        Raises:
            InputError: it reads other inputs or has other classes; names both, and a cure.
        """
        Teacher(self.model, task, images=self.images)
        ready = has_answers(self.model.config, task)
        if ready and set(self.labels) == set(task.labels) and self.labels != task.labels:
            raise InputError(
                f"the teacher's classes are {', '.join(self.labels)} and those of {task.source}"
                f" {', '.join(task.labels)}, in another order; name them so that they sort alike"
            )
        return ready

    def headed(self, task: Task) -> Transformer:
        """Its model with an untrained head of the task's classes."""
        return with_head(self.model, task.num_classes, images=self.images)

    def teaching(self, task: Task, model: Transformer | None = None) -> Teacher:
        """Behind what turns samples into its inputs; `model` in place of its own, of that shape."""
        return Teacher(model or self.model, task, images=self.images)


def find_teacher(folder: Path) -> Found:
    """The model of a folder that `import`, `train`, `demo` or `distill` wrote.

    Raises:
        ArtifactError: it holds no float model of ours, or one that cannot be read.
    """
    place = _place(folder)
    if not (place / CONFIG_FILE).is_file():
        raise ArtifactError(
            f"{folder}: holds no float model; give a folder that `torusformer import` or `train`"
            " wrote"
        )
    settings = _object(place / CONFIG_FILE)
    if "kind" not in settings and "model_type" in settings:
        raise ArtifactError(
            f"{folder}: is a checkpoint from elsewhere; run `torusformer import` on it and give"
            " what that writes"
        )
    report = _object(place / IMPORTED)
    labels = report.get("labels")
    named = tuple(map(str, labels)) if isinstance(labels, list) else ()
    model = Transformer.from_pretrained(place)
    return Found(model, report.get("family") == VIT, named)


def digest(folder: Path) -> str:
    """SHA-256 of a teacher's files: whether it is the same one."""
    whole = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (_place(folder) / name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _place(folder: Path) -> Path:
    """Of a run's folder its float model."""
    inner = folder / FLOAT
    return inner if (inner / CONFIG_FILE).is_file() else folder


def _object(path: Path) -> dict[str, object]:
    """What a JSON file says, if it is there and an object."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
