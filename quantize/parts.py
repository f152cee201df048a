"""What stands around attention, norms and projections: input, embedding, activation, pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusformer.models.activations import ACTIVATIONS
from torusformer.models.config import Activation as ActivationName
from torusformer.models.config import ModelConfig
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.graph import Embedding
from torusformer.quantize.layers import (
    AccumulatorRounding,
    GroupedSum,
    in_a_row,
    matmul,
    total_of,
)
from torusformer.quantize.quantizers import ActQuant, Grid, constant, unary
from torusformer.quantize.walk import Rows


class QuantFeatures(nn.Module):
    """The client's grid: set once, free of ties; numbers as one code or a row of bits each."""

    def __init__(self, config: QuantConfig, unit: float) -> None:
        """Codes count in `unit` of the model's own numbers."""
        super().__init__()
        # One bit is its own unary code.
        self.unary, self.unit = config.input_unary or config.input_bit_width == 1, unit
        self.quant = ActQuant(config.input_bit_width, signed=False)
        self.quant.requires_grad_(False)

    def forward(self, x: Tensor) -> Grid:
        """(B, T, features) to (B, T, features * codes)."""
        n: Grid = self.quant(x)
        if self.unary:
            n = unary(n, x)
        return n._replace(value=n.value * self.unit, scale=n.scale * self.unit)


class Embedded(nn.Module):
    """Rows of a matrix, and a vector for each position, in floating point."""

    def __init__(self, op: Embedding, model: ModelConfig) -> None:
        """Learned on from the float model's; the row of padding stays zero where it is."""
        super().__init__()
        self.padding = model.padding if model.zero_padding else None
        self.weight = nn.Parameter(op.weight.clone())
        self.positions = None if op.positions is None else nn.Parameter(op.positions.clone())

    def forward(self, tokens: Tensor, first: int) -> Tensor:
        """(B, T) ids, the first at position `first`, to (B, T, dim)."""
        x = nn.functional.embedding(tokens, self.weight, self.padding)
        if self.positions is None:
            return x
        return x + constant(self.positions[first : first + tokens.shape[1]])


class FloatGain(nn.Module):
    """A gain and a shift a channel of what is known for each token."""

    def __init__(self, dim: int) -> None:
        """Gain one, shift zero."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return x * self.weight + self.bias


class Activation(nn.Module):
    """An activation; what a gate lets through is a function of two codes, one table."""

    def __init__(self, kind: ActivationName, gains: int | None) -> None:
        """With `gains`, a learned gain for each of so many channels."""
        super().__init__()
        self.act = ACTIVATIONS[kind]
        self.gain = None if gains is None else nn.Parameter(torch.ones(gains))

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        """(..., n) to (..., n)."""
        if up is not None:
            return self.act(gate) * up
        return self.act(gate if self.gain is None else gate * self.gain)


class Pooling(nn.Module):
    """What the head reads of all tokens; a mean over kept ones is a table of sum and count."""

    def __init__(self, model: ModelConfig, config: QuantConfig, *, rounded: bool) -> None:
        """`rounded` says that a norm reads it, in tables; a head takes sums as they are."""
        super().__init__()
        self.kind, self.tokens, self.rounded = model.pooling or "mean", model.tokens, rounded
        self.total = GroupedSum(config.raw_sum_bit_width, config.accumulator_bit_width)
        if self.kind == "mean" and model.padding is not None:
            self.rounding = AccumulatorRounding(config.accumulator_bit_width)
            self.inverse_quant = ActQuant(config.rsqrt_bit_width, signed=False)
            self.mean_quant = ActQuant(config.residual_bit_width, narrow=config.act_narrow)

    def forward(self, x: Grid, rows: Rows) -> Grid:
        """(B, T, n) to (B, n), or (B, T * n) in a row."""
        if self.kind == "row":
            return in_a_row(x)
        width = x.value.shape[-1]
        if self.kind == "sum":
            total = total_of(x)
            return total._replace(value=total.value.squeeze(1))
        if self.kind != "mean":
            row = x.value[:, -1:] if self.kind == "last" else x.value[:, :1]
            return x._replace(value=row.reshape(-1, width))
        if rows.keep is not None:
            return self._mean_of_kept(x, rows.keep)
        n = self.tokens
        if self.rounded:
            total = self.total(x._replace(value=x.value.transpose(1, 2)))  # (B, n, 1)
        else:
            total = Grid(x.value.sum(1), x.scale, n * x.lo, n * x.hi)
        mean = total.value.reshape(-1, width) * (1 / n)
        return total._replace(value=mean, scale=total.scale * (1 / n))

    def _mean_of_kept(self, x: Grid, keep: Grid) -> Grid:
        row = keep._replace(value=keep.value.unsqueeze(1))
        total = self.rounding(matmul(row, x)).value.reshape(-1, x.value.shape[-1])
        count = keep.value.sum(-1, keepdim=True)
        # Half a token more where there is none.
        inverse = self.inverse_quant(1 / torch.clamp(count, min=0.5))
        return self.mean_quant(total * inverse.value)
