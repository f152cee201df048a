"""Brevitas models as others write them: exported, lowered, and equal to their own file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import onnx
import pytest
import torch
from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
)
from torch import nn

from tests.foreign_checks import check

IMAGE = (1, 1, 8, 8)


def small_cnn() -> nn.Module:
    """Batch norm, a bias, pooling of both kinds."""
    per_channel = {"weight_bit_width": 2, "weight_quant": Int8WeightPerChannelFloat}
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=3, act_quant=ShiftedUint8ActPerTensorFloat),
        qnn.QuantConv2d(1, 3, 3, padding=1, bias=False, **per_channel),
        nn.BatchNorm2d(3),
        qnn.QuantReLU(bit_width=2),
        nn.MaxPool2d(2),
        qnn.QuantConv2d(3, 4, 3, stride=1, bias=True, **per_channel),
        qnn.QuantHardTanh(bit_width=3, min_val=-1.0, max_val=1.0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        qnn.QuantIdentity(bit_width=4),
        qnn.QuantLinear(4, 3, bias=True, weight_bit_width=3),
    )


class FloatBetween(nn.Module):
    """Quantizers handed to layers, torch's own functions between them."""

    def __init__(self) -> None:
        super().__init__()
        bits = {"weight_bit_width": 3, "input_bit_width": 3, "input_quant": Int8ActPerTensorFloat}
        self.first = qnn.QuantConv2d(1, 3, 3, bias=True, **bits)
        self.last = qnn.QuantLinear(27, 4, bias=True, **bits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.first(x)), 2)
        return self.last(torch.flatten(x, 1))


def binary() -> nn.Module:
    """Signs of weights and activations, as FINN's networks."""

    def sign() -> nn.Module:
        return qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst)

    weights = {"weight_quant": SignedBinaryWeightPerTensorConst, "bias": False}
    return nn.Sequential(
        sign(),
        qnn.QuantConv2d(1, 4, 3, padding=1, **weights),
        nn.BatchNorm2d(4),
        sign(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        qnn.QuantLinear(64, 4, **weights),
    )


def keyword_spotter() -> nn.Module:
    """Separable convolutions along time, an average that is truncated to integers."""
    bits = {"weight_bit_width": 2, "bias": False}
    typed = {"return_quant_tensor": True}
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=3),
        qnn.QuantConv2d(1, 4, (4, 3), stride=(2, 1), padding=(1, 1), **bits),
        nn.BatchNorm2d(4),
        qnn.QuantReLU(bit_width=2),
        qnn.QuantConv2d(4, 4, 3, padding=2, dilation=2, groups=4, **bits),
        qnn.QuantReLU(bit_width=2),
        qnn.QuantConv2d(4, 3, 1, **bits),
        qnn.QuantReLU(bit_width=3, **typed),
        qnn.TruncAvgPool2d(2, bit_width=3),
        nn.Flatten(),
        qnn.QuantLinear(24, 3, **bits),
    )


MODELS = {f.__name__: f for f in (small_cnn, FloatBetween, binary, keyword_spotter)}
EXPORTS = {"qonnx": export_qonnx, "qcdq": export_onnx_qcdq}
BOTH = ("small_cnn", "FloatBetween")  # Brevitas writes neither signs nor Trunc as QCDQ
CASES = [(name, "qonnx") for name in MODELS] + [(name, "qcdq") for name in BOTH]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_brevitas_model_gives_its_own_numbers(name: str, form: str, tmp_path: Path) -> None:
    make: Callable[[], nn.Module] = MODELS[name]
    torch.manual_seed(0)
    model, path = make(), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            model(torch.randn(4, *IMAGE[1:]))
        model.eval()
        EXPORTS[form](model, args=torch.randn(*IMAGE), export_path=str(path))
    program = check(onnx.load(path))
    assert np.prod(program.outputs[0].shape) in (3, 4)
