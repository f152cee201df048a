"""Normalisations in table form: a grid in, a grid of `act_bit_width` bits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from torusformer.models.config import Norm
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import AccumulatorRounding, GroupedSum
from torusformer.quantize.quantizers import ActQuant, Grid, build_activation, constant, quantize_to


class QuantLayerNorm(nn.Module):
    """Layer norm (or RMS norm, without the mean) by narrow codes.

    c = Quant(x - mean), r = Quant(1 / sqrt(mean of Quant(c^2))), y = Quant(gain * c * r + shift):
    c and r have few bits, so what comes last is one table over the packed pair.
    """

    def __init__(self, dim: int, config: QuantConfig, *, centred: bool) -> None:
        """`centred` subtracts the mean."""
        super().__init__()
        self.dim, self.centred = dim, centred
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.mean_bit_width = config.branch_bit_width
        self.input_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.total = GroupedSum(config.raw_sum_bit_width, config.statistic_bit_width)
        self.centred_quant = ActQuant(config.norm_bit_width)
        self.square_quant = (
            None
            if config.square_bit_width is None
            else ActQuant(config.square_bit_width, signed=False)
        )
        self.rsqrt_quant = ActQuant(config.rsqrt_bit_width, signed=False)
        self.out_quant = build_activation(config)

    def _centre(self, x: Grid) -> Grid:
        sums = self.total(x)
        # A fifth of a unit: no (n + 1/5) * 2^k / dim lies halfway between two units of x.
        mean = (sums.value + constant(0.2 * sums.scale)) * (1 / self.dim)
        # On the grid of x, clipped to a few units: x - mean stays an integer and narrow.
        top = 2.0 ** (self.mean_bit_width - 1)
        mean = quantize_to(mean, x.scale, self.mean_bit_width)
        return Grid(x.value - mean, x.scale, x.lo - (top - 1), x.hi + top)

    def _squares(self, c: Grid) -> Grid:
        if self.square_quant is not None:
            return self.square_quant(c.value * c.value)
        return Grid(c.value * c.value, c.scale**2, 0 * c.lo, torch.maximum(c.lo**2, c.hi**2))

    def forward(self, x: Grid) -> Grid:
        """(..., dim) to (..., dim)."""
        c = self.centred_quant(self.input_rounding(self._centre(x) if self.centred else x).value)
        squares = self.total(self._squares(c))
        # Half a unit stands for epsilon: it keeps a variance that rounds to zero finite.
        variance = (squares.value + constant(0.5 * squares.scale)) * (1 / self.dim)
        r = self.rsqrt_quant(1 / torch.sqrt(variance))
        return self.out_quant(c.value * r.value * self.weight + self.bias)


class QuantGain(nn.Module):
    """No norm, or batch norm in inference: a gain and a shift a channel, in the next table."""

    def __init__(self, dim: int, config: QuantConfig) -> None:
        """Identity at first."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.input_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.out_quant = build_activation(config)

    def forward(self, x: Grid) -> Grid:
        """(..., dim) to (..., dim)."""
        return self.out_quant(self.input_rounding(x).value * self.weight + self.bias)


QUANT_NORMS: Mapping[Norm, Callable[[int, QuantConfig], nn.Module]] = {
    "layer": partial(QuantLayerNorm, centred=True),
    "rms": partial(QuantLayerNorm, centred=False),
    "batch": QuantGain,
    "none": QuantGain,
}
