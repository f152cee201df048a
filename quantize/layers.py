"""Quantized building blocks: everything between two quantizers becomes one table."""

from __future__ import annotations

import math

import torch
from brevitas.function.ops_ste import round_ste
from torch import Tensor, nn

from quantize.config import QuantConfig
from quantize.quantizers import (
    ActQuant,
    Grid,
    build_head,
    build_linear,
    constant,
    quantize_to,
)

ROUND_BITS = 16  # wide enough never to clip


class AccumulatorRounding(nn.Module):
    """Rounds a sum to as many bits as a table may see; does nothing where it is narrow already.

    The number of dropped bits comes from the proved range, never from samples. Half a step is
    subtracted so that no sum lies between two roundings.
    """

    def __init__(self, bit_width: int) -> None:
        """`bit_width` is the widest span of integers that may come out."""
        super().__init__()
        self.bit_width = bit_width

    def _lsbs(self, lo: Tensor, hi: Tensor) -> int:
        limit = 2**self.bit_width - 1
        k = max(0, int((hi - lo).max()).bit_length() - self.bit_width)
        while k:
            half = 2.0 ** (k - 1) - 1
            first, last = torch.floor((lo + half) / 2**k), torch.floor((hi + half) / 2**k)
            if float((last - first).max()) <= limit:
                break
            k += 1
        return k

    def grid(self, x: Grid, offset: Tensor | None = None) -> Grid:
        """`x + offset` on a grid of at most `bit_width` bits.

        Example: 5 bits, x in [-40, 40] in steps of 1: two bits go, 7 becomes 8.
        """
        # The offset in whole steps.
        steps = torch.zeros_like(x.lo) if offset is None else round_ste(offset / x.scale)
        whole = steps.detach()
        k = self._lsbs(x.lo + whole, x.hi + whole)
        if k == 0:
            value = x.value if offset is None else x.value + constant(offset)
            return Grid(value, x.scale, x.lo, x.hi)
        scale = x.scale * 2.0**k
        value = quantize_to(x.value + constant((steps - 0.5) * x.scale), scale, ROUND_BITS)
        half = 2.0 ** (k - 1) - 1
        lo = torch.floor((x.lo + whole + half) / 2**k)
        hi = torch.floor((x.hi + whole + half) / 2**k)
        return Grid(value, scale, lo, hi)

    def forward(self, x: Grid, offset: Tensor | None = None) -> Tensor:
        """What a table reads: `x + offset`, rounded if need be."""
        return self.grid(x, offset).value


class RoundedLinear(nn.Module):
    """x W^T + bias (+ more offset), rounded to the accumulator's width."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        config: QuantConfig,
        *,
        input_bit_width: int | None = None,
        into_stream: bool = False,
    ) -> None:
        """`input_bit_width` is `act_bit_width` by default; the bias lives in the next table.

        `into_stream` marks the layers whose result is added to the residual stream.
        """
        super().__init__()
        bits = config.act_bit_width if input_bit_width is None else input_bit_width
        self.linear = build_linear(in_features, out_features, config, input_bit_width=bits)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.rounding = AccumulatorRounding(
            config.stream_accumulator_bit_width if into_stream else config.accumulator_bit_width
        )
        self._proved: tuple[Tensor, Tensor, Tensor] | None = None  # scale, lo, hi of the last run

    def accumulate(self, x: Grid) -> Grid:
        """The bare sum and its proved range a channel."""
        if torch.onnx.is_in_onnx_export():
            assert self._proved is not None
            return Grid(self.linear(x.value), *self._proved)
        quant_input = x.as_quant_tensor(training=self.training)
        weight = self.linear.quant_weight(quant_input)
        with torch.no_grad():
            w = torch.round(weight.value / weight.scale)
            up, down = w.clamp(min=0).sum(1), w.clamp(max=0).sum(1)
            lo, hi = up * x.lo + down * x.hi, up * x.hi + down * x.lo
        scale = weight.scale.reshape(-1) * x.scale
        if self.training:
            return Grid(nn.functional.linear(x.value, weight.value), scale, lo, hi)
        self._proved = (scale.detach(), lo, hi)
        return Grid(self.linear(quant_input), scale, lo, hi)

    def forward(self, x: Grid, offset: Tensor | None = None) -> Tensor:
        """(..., in) to (..., out)."""
        bias = self.bias if offset is None else self.bias + offset
        return self.rounding(self.accumulate(x), bias)


class QuantHead(nn.Module):
    """Logits: one weight scale for all classes, a float bias that the client adds."""

    def __init__(self, in_features: int, out_features: int, config: QuantConfig) -> None:
        """A linear layer with a bias."""
        super().__init__()
        self.linear = build_head(in_features, out_features, config)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Grid) -> Tensor:
        """(B, in) to (B, out)."""
        return self.linear(x.value) + self.bias


class QuantAttention(nn.Module):
    """Multi-head attention whose softmax is exp(p - log(sum(exp p))): tables around one sum."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, tokens: int, config: QuantConfig
    ) -> None:
        """Projections, and one quantizer for each integer that is multiplied or summed."""
        super().__init__()
        self.heads, self.head_dim, self.tokens = heads, head_dim, tokens
        inner = heads * head_dim
        self.query = RoundedLinear(dim, inner, config)
        self.key = RoundedLinear(dim, inner, config)
        self.value = RoundedLinear(dim, inner, config)
        self.out = RoundedLinear(inner, dim, config, into_stream=True)
        self.query_quant = ActQuant(config.score_bit_width)
        self.key_quant = ActQuant(config.score_bit_width)
        self.value_quant = ActQuant(config.value_bit_width, narrow=True)
        self.score_rounding = AccumulatorRounding(config.accumulator_bit_width)
        # Scores and log-sums share a grid: their difference is an integer subtraction.
        self.score_quant = ActQuant(config.softmax_bit_width)
        self.log_quant = ActQuant(config.softmax_bit_width, share_scale_of=self.score_quant)
        self.exp_quant = ActQuant(config.exp_bit_width, signed=False)
        self.sum_rounding = AccumulatorRounding(config.statistic_bit_width)
        self.weight_quant = ActQuant(config.attention_bit_width, signed=False)
        self.difference_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.context_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.context_quant = ActQuant(config.act_bit_width)

    def _split(self, x: Grid) -> Grid:
        value = x.value.reshape(-1, self.tokens, self.heads, self.head_dim).transpose(1, 2)
        return x._replace(value=value)  # (B, h, T, d)

    def forward(self, x: Grid) -> Tensor:
        """(B, T, dim) to (B, T, dim), not yet quantized."""
        q = self._split(self.query_quant(self.query(x)))
        k = self._split(self.key_quant(self.key(x)))
        v = self._split(self.value_quant(self.value(x)))
        product = matmul(q, k._replace(value=k.value.transpose(-1, -2)))  # (B, h, T, T)
        scores = self.score_rounding(product) * (1 / math.sqrt(self.head_dim))
        a = self._softmax(self.score_quant(scores))
        context = self.context_quant(self.context_rounding(matmul(a, v)))  # (B, h, T, d)
        merged = context.value.transpose(1, 2).reshape(-1, self.tokens, self.heads * self.head_dim)
        return self.out(context._replace(value=merged))

    def _softmax(self, p: Grid) -> Grid:
        e = self.exp_quant(torch.exp(p.value))
        n = self.tokens
        total = Grid(e.value.sum(-1, keepdim=True), e.scale, n * e.lo, n * e.hi)
        total = self.sum_rounding.grid(total)
        # Half a step more: the logarithm of a sum that rounds to zero stays finite.
        log = self.log_quant(torch.log(total.value + constant(0.5 * total.scale)))
        difference = Grid(p.value - log.value, p.scale, p.lo - log.hi, p.hi - log.lo)
        return self.weight_quant(torch.exp(self.difference_rounding(difference)))


def matmul(x: Grid, y: Grid) -> Grid:
    """x @ y of two encrypted tensors (..., M, K) and (..., K, N)."""
    corners = torch.stack([x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi])
    terms = x.value.shape[-1]
    lo, hi = terms * corners.min(), terms * corners.max()
    return Grid(x.value @ y.value, x.scale * y.scale, lo, hi)


def add(x: Grid, y: Grid) -> Grid:
    """x + y of two tensors on one grid."""
    return Grid(x.value + y.value, x.scale, x.lo + y.lo, x.hi + y.hi)
