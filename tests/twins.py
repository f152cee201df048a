"""Tiny models for tests: not trained, but with statistics and shifts; quantized, and lowered."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import torusformer.pipelines.quiet_torch  # noqa: F401
from torusformer import InputError
from torusformer.fhe_compile import Program, interpret, lower
from torusformer.fhe_compile.program.ports import dequantize_array, quantize_array
from torusformer.models import ModelConfig, Transformer
from torusformer.quantize import QuantConfig, QuantTransformer, calibrate, export_qonnx, to_qat

Fragment = dict[str, Any]  # settings that go together
VOCABULARY = 5
# fmt: off
FEATURES = {"tokens": 3, "features": 4, "num_classes": 3}
TOKENS = {"tokens": 3, "vocabulary": VOCABULARY, "num_classes": 3}
TEXT = {"tokens": 3, "vocabulary": VOCABULARY, "causal": True}
SMALL = {"dim": 4, "layers": 1, "heads": 2, "head_dim": 2, "mlp_dim": 4, "activation": "relu"}
NARROW = QuantConfig(
    sum_bit_width=5, act_bit_width=2, input_bit_width=2, score_bit_width=2, value_bit_width=2,
    attention_bit_width=2, exp_bit_width=3, softmax_bit_width=3, statistic_bit_width=5,
    square_bit_width=2, raw_sum_bit_width=6, head_weight_bit_width=2, head_sum_bit_width=6,
)
# fmt: on


def samples(config: ModelConfig, count: int, seed: int = 0) -> Tensor:
    """Numbers up to the input scale, or ids; a text begins with a token that is no padding."""
    generator = torch.Generator().manual_seed(seed)
    if config.vocabulary is None:
        x = torch.rand(count, *config.input_shape, generator=generator)
        return x * (config.input_scale or 1.0)
    ids = torch.randint(0, config.vocabulary, (count, *config.input_shape), generator=generator)
    if config.padding is not None:
        ids[:, 0] = torch.where(ids[:, 0] == config.padding, config.padding ^ 1, ids[:, 0])
    return ids


@torch.no_grad()
def float_model(config: ModelConfig, seed: int = 2) -> Transformer:
    """In eval mode; no gain is one, no shift zero, and every branch counts: a lost one shows."""
    torch.manual_seed(seed)
    model = Transformer(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += 0.2 * torch.randn_like(parameter)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight *= 3
    for i in range(10):
        model(samples(config, 64, seed=i))  # running statistics
    return model.eval()


def twin_of(model: Transformer | ModelConfig, bits: QuantConfig = NARROW) -> QuantTransformer:
    """Quantized and calibrated, in eval mode."""
    model = float_model(model) if isinstance(model, ModelConfig) else model
    twin = to_qat(model, bits)
    calibrate(twin, samples(model.config, 64))
    return twin.eval()


def program_of(twin: QuantTransformer) -> Program:
    """What `twin` is lowered to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.qonnx.onnx"
        export_qonnx(twin, samples(twin.model_config, 1), path)
        return lower(path)


def logits_of(program: Program, x: np.ndarray | Tensor) -> np.ndarray:
    """Of samples, by the interpreter, as the client reads them."""
    (port,), (logits,) = program.inputs, program.outputs
    rows = []
    for row in np.asarray(x):
        values = interpret(program, {port.name: quantize_array(port, row[None])})
        rows.append(dequantize_array(logits, values[logits.name]))
    return np.concatenate(rows)


def pairwise(axes: Sequence[Sequence[Fragment]]) -> list[Fragment]:
    """Few settings in which any two values of different axes meet that can meet."""
    rng, rows = random.Random(0), list[Fragment]()
    met: set[tuple[int, int, int, int]] = set()
    places = [range(len(axis)) for axis in axes]
    for a, b in itertools.combinations(range(len(axes)), 2):
        for i, j in itertools.product(places[a], places[b]):
            if (a, i, b, j) in met:
                continue
            tries = [[rng.choice(p) for p in places] for _ in range(30)]
            for chosen in tries:
                chosen[a], chosen[b] = i, j
            valid = [c for c in tries if shape_of(_joined(axes, c)) is not None]
            if valid:
                best = max(valid, key=lambda c: len(_pairs(c) - met))
                met |= _pairs(best)
                rows.append(_joined(axes, best))
    return rows


def shape_of(settings: Fragment) -> ModelConfig | None:
    """The configuration, if the settings go together."""
    try:
        return ModelConfig.from_dict(settings)
    except InputError:
        return None


def _pairs(chosen: Sequence[int]) -> set[tuple[int, int, int, int]]:
    return {(a, i, b, j) for (a, i), (b, j) in itertools.combinations(enumerate(chosen), 2)}


def _joined(axes: Sequence[Sequence[Fragment]], chosen: Sequence[int]) -> Fragment:
    return {k: v for axis, i in zip(axes, chosen, strict=True) for k, v in axis[i].items()}


def brief(settings: Fragment) -> str:
    """An id for pytest: what differs from the small shape."""
    base = {**FEATURES, **SMALL}
    return "-".join(f"{k}={v}" for k, v in settings.items() if base.get(k) != v)


def axes_of(*names: str, values: Callable[[str], Sequence[Any]]) -> list[list[Fragment]]:
    """An axis of each name alone."""
    return [[{name: value} for value in values(name)] for name in names]
