"""A decoder preset and words in; float decoder, quantized twin and a program a step out."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import torusformer.pipelines.quiet_torch  # noqa: F401  before anything of quantize
from torusformer.fhe_compile.decoding.decoder import DecoderProgram, lower_decoder, save_decoder
from torusformer.fhe_compile.decoding.loop import Cache
from torusformer.fhe_compile.decoding.names import LOGITS
from torusformer.fhe_compile.decoding.picking import logits_of, one_hot
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import dequantize_array
from torusformer.models.decoder import Decoder
from torusformer.models.decoder_config import DecoderConfig
from torusformer.models.words import IGNORED, Sequences, WordsTask, load_words
from torusformer.progress import Progress, track
from torusformer.quantize import QuantConfig, TrainConfig
from torusformer.quantize.decoder_checkpoint import save_quantized, to_quantized
from torusformer.quantize.export import export_steps
from torusformer.quantize.language import nll, train_decoder

FLOAT, QAT, GRAPHS, PROGRAM = "float", "qat", "graphs", "decoder"
DEFAULT_PRESET = "words"


@dataclass(frozen=True, eq=False)
class LanguageRecipe:
    """What to train on what: a task and the three configurations of a preset."""

    task: WordsTask
    preset: str
    model: DecoderConfig
    quant: QuantConfig
    training: TrainConfig

    @classmethod
    def from_name(
        cls,
        preset: str,
        *,
        data: Path | None = None,
        context: int | None = None,
        seed: int | None = None,
        epochs: int | None = None,
    ) -> LanguageRecipe:
        """A preset on words; `data` replaces the embedded ones, the rest the preset's numbers."""
        model, training = DecoderConfig.from_name(preset), TrainConfig.from_name(preset)
        task = load_words(data, context=context or model.context)
        model = model.replace(vocabulary=len(task.labels), context=task.context)
        if seed is not None:
            training = training.replace(seed=seed)
        if epochs is not None:
            training = training.replace(float_epochs=epochs, qat_epochs=epochs)
        return cls(task, preset, model, QuantConfig.from_name(preset), training)

    def about(self) -> dict[str, str]:
        """What a program keeps of this: task, preset, characters."""
        labels = json.dumps(self.task.labels)
        return {"task": self.task.name, "preset": self.preset, "labels": labels}


@dataclass(frozen=True, eq=False)
class TrainedDecoder:
    """The program of every step, and the losses on held-out text of the models it came from."""

    program: DecoderProgram
    teacher_nll: float
    qat_nll: float

    def to_json(self) -> dict[str, Any]:
        """The losses, nats a token, as in `report.json`."""
        return {"teacher_nll": round(self.teacher_nll, 4), "qat_nll": round(self.qat_nll, 4)}


def train_decoder_into(
    folder: Path, recipe: LanguageRecipe, *, progress: bool = True
) -> TrainedDecoder:
    """Train the float decoder, then its quantized twin with it as teacher; save, export, lower."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Named tensors")  # how Brevitas asks torch
        return _train_into(folder, recipe, progress)


def _train_into(folder: Path, recipe: LanguageRecipe, progress: bool) -> TrainedDecoder:
    task, training = recipe.task, recipe.training
    torch.manual_seed(training.seed)
    teacher = Decoder(recipe.model)
    first = train_decoder(
        teacher, task, training, epochs=training.float_epochs,
        learning_rate=training.float_learning_rate, label="float", progress=progress,
    )  # fmt: skip
    teacher.save_pretrained(folder / FLOAT)
    twin = to_quantized(teacher, recipe.quant, task.train.tokens)
    train_decoder(
        twin, task, training, epochs=training.qat_epochs,
        learning_rate=training.qat_learning_rate, teacher=teacher, label="quantized",
        progress=progress,
    )  # fmt: skip
    save_quantized(twin, folder / QAT)
    graphs = folder / GRAPHS
    graphs.mkdir()
    with Progress("export", total=recipe.model.context) as bar:

        def exported() -> Any:
            for graph in export_steps(twin, graphs):
                yield graph
                bar.advance()

        program = lower_decoder(exported(), recipe.about())
    save_decoder(program, folder / PROGRAM)
    return TrainedDecoder(program, first.dev_nll, nll(twin, task.dev))


def program_nll(decoder: DecoderProgram, sequences: Sequences, label: str = "program") -> float:
    """Mean negative log-likelihood a token of the integer programs, natural logarithm.

    What several sequences begin with is computed once.
    """
    known: dict[tuple[int, ...], tuple[np.ndarray, Cache[IntArray]]] = {}
    total = 0.0
    for tokens, targets in track(
        list(zip(sequences.tokens.tolist(), sequences.targets.tolist(), strict=True)), label
    ):
        cache = Cache[IntArray]()
        for position, target in enumerate(targets):
            if target == IGNORED:
                break
            prefix = tuple(tokens[: position + 1])
            if prefix not in known:
                known[prefix] = _step(decoder, prefix[-1], cache)
            log_p, cache = known[prefix]
            total -= float(log_p[target])
    return total / sequences.count


def _step(
    decoder: DecoderProgram, token: int, cache: Cache[IntArray]
) -> tuple[np.ndarray, Cache[IntArray]]:
    """Log-probabilities of the next token, and the cache with this one."""
    port = logits_of(decoder.steps[cache.position])
    row = one_hot(token, len(decoder.labels))
    given, cache = replace(cache, token=row).step(decoder.run)
    logits = dequantize_array(port, given[LOGITS])[0]
    log_p = logits - logits.max()
    return log_p - np.log(np.exp(log_p).sum()), cache
