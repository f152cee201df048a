"""Task and preset in; float model, QAT model and QONNX graphs out, in one folder."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

import torusformer.pipelines.quiet_torch  # noqa: F401  before anything of quantize
from torusformer import InputError
from torusformer.fhe_compile.decoding.decoder import DecoderProgram, lower_decoder, save_decoder
from torusformer.models import ModelConfig, Task, Transformer, load_task
from torusformer.models.sentiment import PIECES, TextOptions
from torusformer.models.task import Measure
from torusformer.models.tasks import OF_TEXTS
from torusformer.pipelines.settings import Settings
from torusformer.progress import Progress
from torusformer.quantize import (
    QuantConfig,
    QuantTransformer,
    TrainConfig,
    calibrate,
    evaluate,
    export_qonnx,
    export_steps,
    to_qat,
    train,
)

FLOAT, QAT = "float", "qat"
QONNX = "model.qonnx.onnx"  # of a classifier
GRAPHS, DECODER = "graphs", "decoder"  # of a model that writes: a graph and a program a position
# What a report calls the measures of the float model, the quantized one and the program.
MEASURES: Mapping[Measure, tuple[str, str, str]] = {
    "accuracy": ("float_accuracy", "qat_accuracy", "program_accuracy"),
    "nats": ("teacher_nll", "qat_nll", "program_nll"),
}


@dataclass(frozen=True, eq=False)
class Recipe:
    """What to train on what: a task and the three configurations of a preset.

    `lengths` are those that the model is exported for, none for its own alone.
    """

    task: Task
    preset: str
    model: ModelConfig
    quant: QuantConfig
    training: TrainConfig
    lengths: tuple[int, ...] = ()

    @classmethod
    def from_name(
        cls,
        task: str,
        preset: str,
        *,
        data: Path | None = None,
        seed: int = 0,
        epochs: int | None = None,
        context: int | None = None,
        texts: TextOptions | None = None,
    ) -> Recipe:
        """A preset on a task; `data` replaces its samples, the rest the preset's own numbers."""
        settings = Settings.from_name(preset).changed(seed=seed, epochs=epochs, context=context)
        return cls.from_settings(task, settings, data=data, texts=texts)

    @classmethod
    def from_settings(
        cls,
        task: str,
        settings: Settings,
        *,
        data: Path | None = None,
        shape: tuple[int, int] | None = None,
        texts: TextOptions | None = None,
        patch: tuple[int, int] | None = None,
    ) -> Recipe:
        """Settings on a task; the model takes the inputs and outputs of samples from outside.

        `patch` cuts the task `images` otherwise than the settings do.

        `shape` is that of a sample, tokens and features; without it they fit the settings, or come
        as `models.samples.suggested_shape` says. Those of another shape than the settings' are no
        images, which could be moved at random. A tokenizer that is trained on `texts` gets as many
        pieces as the settings' vocabulary has.
        """
        if task == "images" and shape:
            raise InputError("--shape is of numbers, images are cut by --patch; leave it out")
        if task != "images" and patch:
            raise InputError(f"--patch cuts images, and the task is {task}; leave it out")
        patch, wanted = patch or settings.model.patch, shape or settings.model.input_shape
        if shape and (settings.model.features is None or data is None):
            raise InputError("--shape says how numbers of your --data make tokens; leave it out")
        if shape and shape != settings.model.input_shape:
            patch = None
        if task in OF_TEXTS:
            pieces = settings.model.vocabulary or PIECES
            texts = dataclasses.replace(texts or TextOptions(), pieces=pieces)
        loaded = load_task(
            task, data, patch=patch, input_shape=wanted, fit=shape is None, texts=texts
        )
        return cls.of_task(loaded, settings, fit=data is not None)

    @classmethod
    def of_task(cls, loaded: Task, settings: Settings, *, fit: bool = True) -> Recipe:
        """Settings on a task that is loaded already, for inputs of the settings' shape."""
        model, training = settings.model, settings.training
        if fit or loaded.vocabulary is not None:
            model = loaded.fitted(model)
        if loaded.patch is None and settings.model.patch is not None:
            training = training.replace(augment=0.0, elastic=0.0)
        return cls(loaded, settings.name, model, settings.quant, training, settings.lengths)

    def shaped(self, settings: Settings) -> Settings:
        """The settings that this was made of, for samples of this shape."""
        made, given = self.model, settings.model
        if (made.input_shape, made.patch) == (given.input_shape, given.patch):
            return settings
        names = ("tokens", "features", "patch")
        model = settings.model.replace(**{name: getattr(self.model, name) for name in names})
        return dataclasses.replace(settings, model=model, training=self.training)

    def about(self) -> dict[str, str]:
        """What a program keeps of this: task, preset, names of outputs, how images are cut."""
        about = {
            "task": self.task.name,
            "preset": self.preset,
            "labels": json.dumps(self.task.labels),
        }
        if self.model.patch is not None:
            about["patch"] = json.dumps(self.model.patch)
        if self.task.tokenizer is not None:
            about["tokenizer"] = json.dumps(self.task.tokenizer.about())
        return about

    def graphs(self) -> dict[int, str]:
        """What the QONNX graph of each length is called; one of one length is `QONNX`."""
        if not self.lengths:
            return {self.model.tokens: QONNX}
        return {length: f"model.{length}.qonnx.onnx" for length in self.lengths}

    @property
    def graph(self) -> str:
        """What the QONNX graph of the whole length is called."""
        return self.graphs()[self.model.tokens]


@dataclass(frozen=True, eq=False)
class Trained:
    """The quantized model and the task's measure of both models on the held-out samples.

    `program` are the steps of a model that writes, lowered.
    """

    qat: QuantTransformer
    measure: Measure
    of_float: float
    of_qat: float
    program: DecoderProgram | None = None

    def to_json(self) -> dict[str, Any]:
        """The measures, as in `report.json`."""
        of_float, of_qat, _ = MEASURES[self.measure]
        return {of_float: round(self.of_float, 4), of_qat: round(self.of_qat, 4)}


@contextmanager
def quiet_brevitas() -> Iterator[None]:
    """A block in which Brevitas may ask torch what it asks without torch's remark on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Named tensors")
        yield


def train_into(folder: Path, recipe: Recipe, *, progress: bool = True) -> Trained:
    """Train the float model, then its quantized twin with the float one as teacher; save both.

    A classifier leaves its QONNX graph, a model that writes the graph and the program of each step.
    """
    with quiet_brevitas():
        task = recipe.task
        torch.manual_seed(recipe.training.seed)
        model = Transformer(recipe.model)
        train(model, task, recipe.training, progress=progress)

        qat = to_qat(model, recipe.quant)
        calibrate(qat, task.x_train)
        for warning in train(qat, task, recipe.training, teacher=model, progress=progress).warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return save_trained(folder, recipe, model, qat)


def save_trained(
    folder: Path, recipe: Recipe, model: Transformer, qat: QuantTransformer
) -> Trained:
    """Write a float model, its quantized twin and the graphs of that; what both measure."""
    task = recipe.task
    model.save_pretrained(folder / FLOAT)
    qat.save_pretrained(folder / QAT)
    of_float, of_qat = evaluate(model, task), evaluate(qat, task)
    if recipe.model.foretells:
        program = _lowered_steps(qat, recipe, folder)
        return Trained(qat, task.measure, of_float, of_qat, program)
    if task.tokenizer is not None:
        task.tokenizer.save(folder)
    for length, name in recipe.graphs().items():
        model_of = qat if length == recipe.model.tokens else qat.of_length(length)
        _warn_where_not_alike(qat, model_of, task, length)
        graph = export_qonnx(model_of, task.x_train[:1, :length], folder / name)
        kept = {p.key: p.value for p in graph.metadata_props}
        onnx.helper.set_model_props(graph, {**kept, **recipe.about()})
        onnx.save(graph, str(folder / name))
    return Trained(qat, task.measure, of_float, of_qat)


@torch.no_grad()
def _warn_where_not_alike(
    whole: QuantTransformer, short: QuantTransformer, task: Task, length: int
) -> None:
    """Say so where held-out texts that fit a shorter length get other logits there."""
    if whole is short or task.padding is None:
        return
    x = torch.from_numpy(task.x_test[(task.x_test[:, length:] == task.padding).all(axis=1)][:256])
    if not len(x):
        return
    differs = ~torch.isclose(whole(x), short(x[:, :length]), atol=1e-4).all(dim=1)
    if count := int(differs.sum()):
        print(
            f"warning: of {len(x)} held-out texts of up to {length} pieces {count} have other "
            f"logits than at {whole.model_config.tokens}: attention or sums depend on padding",
            file=sys.stderr,
        )


def _lowered_steps(qat: QuantTransformer, recipe: Recipe, folder: Path) -> DecoderProgram:
    """Export the step at every position and lower it."""
    graphs = folder / GRAPHS
    graphs.mkdir()
    with Progress("export", total=recipe.model.tokens) as bar:

        def exported() -> Iterator[tuple[str, onnx.ModelProto]]:
            for graph in export_steps(qat, graphs):
                yield graph
                bar.advance()

        program = lower_decoder(exported(), recipe.about())
    save_decoder(program, folder / DECODER)
    return program
