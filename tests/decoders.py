"""Tiny models that write for tests: quantized and calibrated, not trained, and their programs."""

from __future__ import annotations

import json
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch

import torusformer.pipelines.quiet_torch  # noqa: F401
from torusformer.fhe_compile.decoding.decoder import DecoderProgram, lower_decoder
from torusformer.models import ModelConfig, Task, Transformer, load_task
from torusformer.quantize import QuantConfig, QuantTransformer, calibrate, export_steps, to_qat

PRESETS = ("tiny-words", "tiny-signs", "tiny-gpt2", "tiny-llama")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@cache
def words(context: int) -> Task:
    """The embedded task."""
    return load_task("words", input_shape=(context,))


@cache
def quantized(
    preset: str, context: int | None = None, letters: str = LETTERS, bits: int = 5
) -> QuantTransformer:
    """In eval mode; logits are as wide as a trained model's. Few `letters` make a small argmax."""
    torch.manual_seed(0)
    config = ModelConfig.from_name(preset)
    config = config.replace(tokens=context or config.tokens, vocabulary=1 + len(letters))
    model = Transformer(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(4)
    twin = to_qat(model, QuantConfig.from_name(preset).replace(accumulator_bit_width=bits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrate(twin, words(config.tokens).x_train % config.outputs)
    return twin.eval()


@cache
def program(
    preset: str, context: int | None = None, letters: str = LETTERS, bits: int = 5
) -> DecoderProgram:
    """Of every step, open. What is to be encrypted takes four bits: its keys cost half."""
    twin, labels = quantized(preset, context, letters, bits), json.dumps(["\n", *letters])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = export_steps(twin, Path(folder))
        return lower_decoder(steps, {"labels": labels}, levels=2 ** (bits - 1))


def one_hot(token: int, count: int = 27) -> np.ndarray:
    """A row of bits."""
    return np.eye(count, dtype=np.int64)[[token]]
