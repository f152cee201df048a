"""A preset or a block's configuration in; the trained model, from disk if it is there, out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.block import Block, BlockConfig, accuracy, export_block, train_block
from torusformer import InputError
from torusformer.fhe_compile import Program, lower
from torusformer.folders import is_ours, output_folder
from torusformer.models import Task, Transformer, preset_names
from torusformer.pipelines.answers import InProcess
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.training import FLOAT, QAT, QONNX, Recipe, train_into
from torusformer.quantize import QuantTransformer, evaluate


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A program, the task it was trained for, and accuracies on its held-out samples."""

    name: str
    task: Task
    program: Program
    folder: Path
    accuracies: dict[str, float]

    @property
    def key(self) -> str:
        """Name and settings: what was measured of one model is never taken for another's."""
        return self.folder.name


def digest(settings: dict[str, Any]) -> str:
    """Eight characters that change with the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def preset(
    name: str,
    models: Path,
    epochs: int | None = None,
    shape: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """A preset on digits; trained only if these very settings were not trained before.

    `shape` changes settings of its model.
    """
    if name not in preset_names():
        raise InputError(f"the benchmark needs the preset {name!r}; there is none of that name")
    chosen = Settings.from_name(name).changed(epochs=epochs)
    chosen = replace(chosen, model=chosen.model.replace(**(shape or {})))
    recipe = Recipe.from_settings("digits", chosen)
    settings = {part: getattr(recipe, part).to_dict() for part in ("model", "quant", "training")}
    folder = models / f"{name}-{digest(settings)}"
    if not is_ours(folder, "run"):
        with output_folder(folder, "run") as new:
            train_into(new, recipe)
    task = recipe.task
    program = lower(folder / QONNX, recipe.about())
    clear = InProcess(program)
    accuracies = {
        "float": evaluate(Transformer.from_pretrained(folder / FLOAT), task),
        "quantized": evaluate(QuantTransformer.from_pretrained(folder / QAT), task),
        "program": float((clear.classes(task.x_test) == task.y_test).mean()),
    }
    return TrainedModel(name, task, program, folder, accuracies)


def block(config: BlockConfig, task: Task, models: Path) -> tuple[Block, Program, float]:
    """A trained block, its integer program, and its accuracy on the held-out samples."""
    folder = models / f"block-{digest(config.to_dict())}"
    if not is_ours(folder, "run"):
        with output_folder(folder, "run") as new:
            weights = train_block(config, task).state_dict()
            weights = {name: weight.clone() for name, weight in weights.items()}  # none shared
            save_file(weights, str(new / "model.safetensors"))
    model = Block(config)
    model.load_state_dict(load_file(str(folder / "model.safetensors")))
    score = accuracy(model, task)
    graph = export_block(model, task.x_train, folder / QONNX)
    return model, lower(graph), score
