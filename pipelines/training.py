"""Task and preset in, a folder with float model, QAT model and QONNX graph out."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

import torusformer.pipelines.quiet_torch  # noqa: F401  before anything of quantize
from torusformer.models import Task, Transformer, TransformerConfig, load_task
from torusformer.pipelines.settings import Settings
from torusformer.quantize import (
    QuantConfig,
    QuantTransformer,
    TrainConfig,
    calibrate,
    evaluate,
    export_qonnx,
    to_qat,
    train,
)

FLOAT, QAT, QONNX = "float", "qat", "model.qonnx.onnx"


@dataclass(frozen=True, eq=False)
class Recipe:
    """What to train on what: a task and the three configurations of a preset."""

    task: Task
    preset: str
    model: TransformerConfig
    quant: QuantConfig
    training: TrainConfig

    @classmethod
    def from_name(
        cls,
        task: str,
        preset: str,
        *,
        data: Path | None = None,
        seed: int = 0,
        epochs: int | None = None,
    ) -> Recipe:
        """A preset on a task; `data` replaces its samples, `epochs` the recipe's own numbers."""
        settings = Settings.from_name(preset).train_with(seed=seed, epochs=epochs)
        return cls.from_settings(task, settings, data=data)

    @classmethod
    def from_settings(cls, task: str, settings: Settings, *, data: Path | None = None) -> Recipe:
        """Settings on a task; with `data`, classes and input scale are those of its samples."""
        model = settings.model
        loaded = load_task(task, data, patch=model.patch, input_shape=model.input_shape)
        if data is not None:
            model = model.replace(num_classes=loaded.num_classes, input_scale=loaded.input_scale)
        return cls(loaded, settings.name, model, settings.quant, settings.training)

    def about(self) -> dict[str, str]:
        """What a program keeps of this: task, preset, class names, how images are cut."""
        about = {
            "task": self.task.name,
            "preset": self.preset,
            "labels": json.dumps(self.task.labels),
        }
        if self.model.patch is not None:
            about["patch"] = json.dumps(self.model.patch)
        return about


@dataclass(frozen=True, eq=False)
class Trained:
    """The quantized model and what both models reach on the held-out samples."""

    qat: QuantTransformer
    float_accuracy: float
    qat_accuracy: float

    def to_json(self) -> dict[str, Any]:
        """The accuracies, as in `report.json`."""
        return {"float_accuracy": self.float_accuracy, "qat_accuracy": self.qat_accuracy}


def train_into(folder: Path, recipe: Recipe, *, progress: bool = True) -> Trained:
    """Train the float model, then its quantized twin with the float one as teacher; save both."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Named tensors")  # how Brevitas asks torch
        return _train_into(folder, recipe, progress)


def _train_into(folder: Path, recipe: Recipe, progress: bool) -> Trained:
    task = recipe.task
    torch.manual_seed(recipe.training.seed)
    model = Transformer(recipe.model)
    train(model, task, recipe.training, progress=progress)
    model.save_pretrained(folder / FLOAT)

    qat = to_qat(model, recipe.quant)
    calibrate(qat, task.x_train)
    train(qat, task, recipe.training, teacher=model, progress=progress)
    qat.save_pretrained(folder / QAT)
    graph = export_qonnx(qat, task.x_train[:1], folder / QONNX)
    onnx.helper.set_model_props(graph, recipe.about())
    onnx.save(graph, str(folder / QONNX))
    return Trained(
        qat,
        evaluate(model, task.x_test, task.y_test),
        evaluate(qat, task.x_test, task.y_test),
    )
