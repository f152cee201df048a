"""Brevitas quantizers for weights whose sums fit a table or wrap, and layers that have them."""

from __future__ import annotations

import math
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.inject import ExtendedInjector
from brevitas.inject.enum import FloatToIntImplType
from brevitas.proxy import WeightQuantProxyFromInjector
from brevitas.quant import (
    Int8AccumulatorAwareWeightQuant,
    Int8AccumulatorAwareZeroCenterWeightQuant,
)
from torch import Tensor, nn

from torusformer import InputError
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.quantizers import Quantized

CANDIDATES = 24  # weight scales tried a channel


class LeastSquaresGrid(nn.Module):
    """The `tensor_quant` of `BoundedWeight`.

    Among some scales it takes the one whose integers q have an L1 norm of at most `l1_limit` and
    the least squared error; the scale is then <w, q> / <q, q>. Nothing is learned but the weights.

    Example, 2 bits, limit 2: [0.9, -0.1, 0.7, 0.5] becomes 0.8 * [1, 0, 1, 0].
    """

    def __init__(self, bit_width: int, per_channel: bool, l1_limit: float) -> None:
        """`l1_limit` is per output channel."""
        super().__init__()
        self.per_channel, self.l1_limit = per_channel, l1_limit
        self.top = 2.0 ** (bit_width - 1) - 1
        shares = torch.logspace(0, 1, CANDIDATES) / 10  # 0.1 to 1
        # As a share of the largest weight; at twice the largest weight nothing is left.
        self.register_buffer("shares", 2.0 * shares ** (1 if self.top == 1 else 1.5),
                             persistent=False)  # fmt: skip
        self.register_buffer("bits", torch.tensor(float(bit_width)), persistent=False)
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)

    def _largest(self, weight: Tensor) -> Tensor:
        # Each weight that is not zero costs at least one: no more than l1_limit can stay.
        if self.l1_limit >= weight.shape[1]:
            return weight
        size = weight.abs()
        least = size.topk(int(self.l1_limit), dim=1).values[:, -1:]
        return weight * (size >= least)

    def _integers(self, rows: Tensor, scales: Tensor) -> Tensor:
        return torch.clamp(torch.round(rows / scales), -self.top, self.top)

    def _tried(self, rows: Tensor, scales: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """By scale and row, how well it fits; by scale and channel, the L1 norm of its integers."""
        q = self._integers(rows, scales)  # (K, out, in)
        fit = (q * rows).sum(2) / (q * q).sum(2).clamp(min=1).sqrt()
        return fit, q.reshape(-1, *shape).abs().sum(2)

    def forward(self, weight: Tensor) -> Quantized:
        """(out, in) to (out, in); gradients pass straight through."""
        with torch.no_grad():
            kept = self._largest(weight)
            rows = kept if self.per_channel else kept.reshape(1, -1)
            peak = rows.abs().amax(1, keepdim=True).clamp(min=1e-6)
            scales = peak * self.shares[:, None, None]
            if self.top == 1 and self.per_channel:
                fit, norms = _ternary(rows, scales)
            else:
                fit, norms = self._tried(rows, scales, weight.shape)
            feasible = norms <= self.l1_limit
            if not self.per_channel:
                feasible = feasible.all(1, keepdim=True)
            best = torch.where(feasible, fit, -torch.ones_like(fit)).argmax(0)  # (out,)
            q = self._integers(rows, scales[best, torch.arange(len(rows))])
            square = (q * q).sum(1, keepdim=True)
            scale = (q * rows).sum(1, keepdim=True) / square.clamp(min=1)
            scale = torch.where(square > 0, scale, peak)
            value = (q * scale).reshape(weight.shape)
        scale = scale if self.per_channel else scale.reshape(())
        if self.training:
            value = weight + (value - weight).detach()
        return value, scale, self.zero, self.bits


def _ternary(rows: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """As `_tried` for integers of -1, 0 and 1: those beyond half a scale, counted once sorted."""
    size = rows.abs().sort(1).values
    sums = nn.functional.pad(size.cumsum(1), (1, 0))
    halves = scales.squeeze(2).T.contiguous() / 2  # (out, K)
    below = torch.searchsorted(size, halves, right=True)
    count = rows.shape[1] - below
    fit = (sums[:, -1:] - sums.gather(1, below)) / count.clamp(min=1).sqrt()
    return fit.T, count.T


class BoundedWeight(ExtendedInjector):
    """Weight quantizer; give `bit_width`, `per_channel`, `l1_limit`."""

    proxy_class = WeightQuantProxyFromInjector
    tensor_quant = LeastSquaresGrid
    float_to_int_impl_type = FloatToIntImplType.ROUND
    narrow_range = True
    signed = True


def _l1_limit(sum_bit_width: int, input_span: int) -> float:
    limit = (2**sum_bit_width - 1) // input_span
    if limit < 1:
        raise InputError(
            f"sum_bit_width {sum_bit_width} is too narrow for inputs of {input_span + 1} levels;"
            " raise it or lower act_bit_width and input_bit_width"
        )
    return float(limit)


def build_linear(
    in_features: int, out_features: int, config: QuantConfig, *, input_span: int, wraps: bool
) -> qnn.QuantLinear:
    """A bias-free Brevitas linear layer whose sum has at most `config.sum_bit_width` bits.

    `input_span` is the difference between the highest and the lowest integer it reads. A sum that
    `wraps` has no bound.
    """
    bits = config.weight_bit_width
    if config.weight_quant == "bounded" or wraps:
        limit = math.inf if wraps else _l1_limit(config.sum_bit_width, input_span)
        kind: type = BoundedWeight
        extra: dict[str, Any] = {"weight_per_channel": True, "weight_l1_limit": limit}
    else:
        kind = {
            "a2q": Int8AccumulatorAwareWeightQuant,
            "a2q+": Int8AccumulatorAwareZeroCenterWeightQuant,
        }[config.weight_quant]
        extra = {"weight_accumulator_bit_width": config.sum_bit_width}
    return qnn.QuantLinear(
        in_features, out_features, bias=False, weight_quant=kind, weight_bit_width=bits, **extra
    )


def build_head(
    in_features: int, out_features: int, config: QuantConfig, *, input_span: int
) -> qnn.QuantLinear:
    """As `build_linear`, with one scale for all classes: their integers compare."""
    return qnn.QuantLinear(
        in_features,
        out_features,
        bias=False,
        weight_quant=BoundedWeight,
        weight_bit_width=config.head_weight_bit_width,
        weight_per_channel=False,
        weight_l1_limit=_l1_limit(config.head_sum_bit_width, input_span),
    )
