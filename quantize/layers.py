"""Quantized building blocks: everything between two quantizers becomes one table."""

from __future__ import annotations

from collections.abc import Sequence

import brevitas.nn as qnn
import torch
from brevitas.function.ops_ste import round_ste
from brevitas.proxy.parameter_quant import DecoupledWeightQuantWithInputProxyFromInjector
from torch import Tensor, nn

from torusformer.models.neighbours import rows_before
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.quantizers import (
    Grid,
    constant,
    quantize_to,
)
from torusformer.quantize.rings import Folding
from torusformer.quantize.weight_quantizers import build_linear

ROUND_BITS = 16  # wide enough never to clip


class AccumulatorRounding(nn.Module):
    """Rounds a sum to as many bits as a table may see; does nothing where it is narrow already.

    The number of dropped bits comes from the proved range, never from samples. Half a unit is
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

    def forward(self, x: Grid, offset: Tensor | None = None) -> Grid:
        """What a table reads: `x + offset` on a grid of at most `bit_width` bits.

        Example: 5 bits, x in [-40, 40] in units of 1: two bits go, 7 becomes 8.
        """
        # The offset in whole units.
        units = torch.zeros_like(x.lo) if offset is None else round_ste(offset / x.scale)
        whole = units.detach()
        k = self._lsbs(x.lo + whole, x.hi + whole)
        if k == 0:
            value = x.value if offset is None else x.value + constant(offset)
            return Grid(value, x.scale, x.lo, x.hi)
        scale = x.scale * 2.0**k
        value = quantize_to(x.value + constant((units - 0.5) * x.scale), scale, ROUND_BITS)
        half = 2.0 ** (k - 1) - 1
        lo = torch.floor((x.lo + whole + half) / 2**k)
        hi = torch.floor((x.hi + whole + half) / 2**k)
        return Grid(value, scale, lo, hi)


class RowRounding(AccumulatorRounding):
    """Rounds sums over as many tokens as each row sees.

    A row has as many terms as tokens behind it, and so has its proved range: each is rounded as
    the step of that position will round it when the model writes.
    """

    def rows(self, x: Grid, counts: Sequence[int]) -> Grid:
        """(..., R, n) to the same shape; `x.lo` and `x.hi` bound one of the counts[r] terms.

        The scale of the result, and its range, are one a row where counts differ.
        """
        if len(set(counts)) == 1:
            return self(x._replace(lo=x.lo * counts[0], hi=x.hi * counts[0]))
        parts = []
        for i, count in enumerate(counts):
            row = Grid(x.value[..., i, :], x.scale, x.lo * count, x.hi * count)
            parts.append(self(row))
        return Grid(
            torch.stack([part.value for part in parts], dim=-2),
            torch.stack([part.scale.reshape(()) for part in parts])[:, None],
            torch.stack([part.lo.reshape(()) for part in parts])[:, None],
            torch.stack([part.hi.reshape(()) for part in parts])[:, None],
        )


class GroupedSum(nn.Module):
    """The sum over the last axis, kept dimension 1, on a grid of at most `bit_width` bits.

    It is summed up in groups none of which needs more than `raw_bit_width` bits before it is
    rounded: a sum that is read at high precision makes every table that writes into it dear.
    Example: 32 numbers of 4 bits need 9 bits, two groups of 16 need 8 each.
    """

    def __init__(self, raw_bit_width: int | None, bit_width: int) -> None:
        """Limits of a group's bare sum, if any, and of the whole."""
        super().__init__()
        self.raw_bit_width, self.bit_width = raw_bit_width, bit_width

    def forward(self, x: Grid) -> Grid:
        """(..., n) to (..., 1)."""
        n = x.value.shape[-1]
        lo, hi = x.lo.amin(), x.hi.amax()
        groups, limit = 1, 2.0 ** (self.raw_bit_width or 1000)
        while float(hi - lo) * (n // groups) >= limit and n % (2 * groups) == 0:
            groups *= 2
        value = x.value.reshape(*x.value.shape[:-1], groups, n // groups).sum(-1)
        part = Grid(value, x.scale, (n // groups) * lo, (n // groups) * hi)
        part = AccumulatorRounding(self.bit_width - (groups - 1).bit_length())(part)
        total = part.value.sum(-1, keepdim=True)
        return Grid(total, part.scale, groups * part.lo, groups * part.hi)


class RoundedLinear(nn.Module):
    """x W^T + bias, rounded to the accumulator's width; the bias lives in the next table.

    A bias may differ by position. With `known` inputs, what a token alone adds (a float linear
    map of them) is rounded to whole units of the sum, `token_bit_width` bits. With `zero_padding`
    the bias is a part of that, and padding adds nothing.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        config: QuantConfig,
        *,
        input_span: int,
        positions: Tensor | None = None,
        known: Tensor | None = None,
        near: Tensor | None = None,
        sum_bit_width: int | None = None,
        into_stream: bool = False,
        ring: int | None = None,
        zero_padding: bool = False,
    ) -> None:
        """Starts from float `weight` (out, in), `bias` (out,), `positions` (T, out).

        `input_span` is the difference between the highest and the lowest integer that is read.
        `known` (out, k) is the map of what a token alone gives, `near` (W - 1, vocabulary, out) are
        the rows of the tokens before each. `sum_bit_width` replaces the
        configured one, and the accumulators' with it. `into_stream` marks the layers whose result
        is added to the residual stream. With a `ring` the sum wraps: tables of that many bits read
        it.
        """
        super().__init__()
        out_features, in_features = weight.shape
        if sum_bit_width is not None:
            config = config.replace(
                sum_bit_width=sum_bit_width,
                accumulator_bit_width=sum_bit_width,
                stream_accumulator_bit_width=sum_bit_width,
            )
        self.linear = build_linear(
            in_features, out_features, config, input_span=input_span, wraps=ring is not None
        )
        self.linear.weight.data.copy_(weight)
        self.bias = nn.Parameter(torch.zeros_like(bias) if known is not None else bias.clone())
        self.positions = None if positions is None else nn.Parameter(positions.clone())
        self.token_bit_width = config.token_bit_width
        self.token = None if known is None else linear_of(known, bias)
        self.zero_padding = zero_padding
        self.near = None if near is None else nn.Parameter(near.clone())
        width = config.stream_accumulator_bit_width if into_stream else config.accumulator_bit_width
        self.rounding = AccumulatorRounding(width) if ring is None else Folding(ring)

    def accumulate(self, x: Grid) -> Grid:
        """The bare sum and its proved range a channel."""
        weight, weight_scale = quantized_weight(self.linear, x, training=self.training)
        with torch.no_grad():
            w = torch.round(weight / weight_scale)
            up, down = w.clamp(min=0), w.clamp(max=0)
            least, most = (end.expand(w.shape[1]) for end in (x.lo, x.hi))
            lo, hi = up @ least + down @ most, up @ most + down @ least
        scale = weight_scale.reshape(-1) * x.scale
        if torch.onnx.is_in_onnx_export():
            return Grid(self.linear(x.value), constant(scale), constant(lo), constant(hi))
        return Grid(nn.functional.linear(x.value, weight), scale, lo, hi)

    def forward(
        self,
        x: Grid,
        known: Tensor | None = None,
        first: int = 0,
        tokens: tuple[Tensor, Sequence[Tensor]] | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """(..., T, in), and what is known of each token (..., T, k), to (..., T, out).

        `first` is the position of the first token; `tokens` are the ids (B, T), and those before.
        `keep` (B, T) is 0 where a token is padding.
        """
        total = self.accumulate(x)
        bias: Tensor = self.bias
        if self.zero_padding:
            assert keep is not None, "padding is known"
            added = bias if self.token is None else self.token(known) + bias
            total = self._plus(total, added * keep.unsqueeze(-1))
            return self.rounding(total).value
        if self.token is not None:
            total = self._plus(total, self.token(known))
        if self.positions is not None:
            bias = bias + self.positions[first : first + x.value.shape[-2]]
        if self.near is not None:
            assert tokens is not None, "neighbours are token ids"
            for row in rows_before(map(constant, self.near), *tokens):
                total = self._plus(total, row)
        return self.rounding(total, bias).value

    def _plus(self, total: Grid, number: Tensor) -> Grid:
        """With a number that is known of a token, rounded to whole units."""
        bits = self.token_bit_width
        added = quantize_to(number, constant(total.scale), bits)
        half = 2.0 ** (bits - 1)
        return Grid(total.value + added, total.scale, total.lo - half, total.hi + half - 1)


def quantized_weight(linear: qnn.QuantLinear, x: Grid, *, training: bool) -> tuple[Tensor, Tensor]:
    """A layer's quantized weights (out, in) and their scale, also while it is being exported.

    Accumulator-aware quantizers ask for the width and sign of the input.
    """
    proxy = linear.weight_quant
    about: tuple[object, ...] = ()
    if isinstance(proxy, DecoupledWeightQuantWithInputProxyFromInjector):
        given = x.as_quant_tensor(training=training)
        about = (given.bit_width, given.signed)
    value, scale, *_ = proxy.tensor_quant(constant(linear.weight), *about)
    return value, scale


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A float linear layer with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer


def matmul(x: Grid, y: Grid) -> Grid:
    """x @ y of two encrypted tensors (..., M, K) and (..., K, N)."""
    corners = torch.stack([x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi])
    terms = x.value.shape[-1]
    lo, hi = terms * corners.min(), terms * corners.max()
    return Grid(x.value @ y.value, x.scale * y.scale, lo, hi)


def side_by_side(parts: Sequence[Grid]) -> Grid:
    """Parts (..., n) in a row, on the grid of the first.

    What a unit of another part is worth is up to the weights that read it.
    """
    scale = parts[0].scale
    values = [part.value / part.scale * scale for part in parts[1:]]
    return Grid(
        torch.cat([parts[0].value, *values], dim=-1),
        scale,
        torch.cat([part.lo.expand(part.value.shape[-1]) for part in parts]),
        torch.cat([part.hi.expand(part.value.shape[-1]) for part in parts]),
    )


def in_a_row(x: Grid) -> Grid:
    """Everything of a sample in a row, (B, ...) to (B, n)."""
    return x._replace(value=x.value.flatten(1))


def one_token(x: Grid) -> Grid:
    """Everything of a sample as one token, (B, ...) to (B, 1, n)."""
    return x._replace(value=x.value.flatten(1).unsqueeze(1))


def total_of(x: Grid) -> Grid:
    """The sum over tokens as one token, (B, T, n) to (B, 1, n)."""
    count = x.value.shape[1]
    return Grid(x.value.sum(1, keepdim=True), x.scale, count * x.lo, count * x.hi)


def add(x: Grid, y: Grid) -> Grid:
    """x + y of two tensors on one grid."""
    return Grid(x.value + y.value, x.scale, x.lo + y.lo, x.hi + y.hi)
