"""Tiny decoders for tests: quantized and calibrated, not trained, and their programs."""

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
from torusformer.models.decoder import Decoder
from torusformer.models.decoder_config import DecoderConfig
from torusformer.models.words import WordsTask, load_words
from torusformer.quantize import QuantConfig
from torusformer.quantize.causal import CausalDecoder
from torusformer.quantize.decoder_checkpoint import to_quantized
from torusformer.quantize.export import export_steps

PRESETS = ("tiny-words", "tiny-gpt2", "tiny-llama")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@cache
def words(context: int) -> WordsTask:
    """The embedded task."""
    return load_words(context=context)


@cache
def quantized(preset: str, context: int | None = None, letters: str = LETTERS) -> CausalDecoder:
    """In eval mode; logits are as wide as a trained model's. Few `letters` make a small argmax."""
    torch.manual_seed(0)
    config = DecoderConfig.from_name(preset)
    config = config.replace(context=context or config.context, vocabulary=1 + len(letters))
    model = Decoder(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = words(config.context).train.tokens % config.vocabulary
        twin = to_quantized(model, QuantConfig.from_name(preset), tokens)
    return twin.eval()


@cache
def program(preset: str, context: int | None = None, letters: str = LETTERS) -> DecoderProgram:
    """Of every step, open."""
    twin, labels = quantized(preset, context, letters), json.dumps(["\n", *letters])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lower_decoder(export_steps(twin, Path(folder)), {"labels": labels})


def one_hot(token: int, count: int = 27) -> np.ndarray:
    """A row of bits."""
    return np.eye(count, dtype=np.int64)[[token]]
