"""Causal attention in table form: queries, keys and values in, what heads found as codes out.

Everything that a row sums up has as many terms as the row has tokens behind it, and so has its
proved range: each row is rounded as the step of that position will round it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torusformer.models.causal import by_distance, future
from torusformer.models.decoder_config import DecoderConfig
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import AccumulatorRounding, matmul
from torusformer.quantize.quantizers import ActQuant, Grid, build_activation, constant


class Entry(NamedTuple):
    """Codes of keys and values of some tokens in one block, (B, groups, T, d)."""

    keys: Grid
    values: Grid


Cache = Sequence[Entry]  # one a block


def seen(cache: Cache | None) -> int:
    """Tokens that a cache holds."""
    return cache[0].keys.value.shape[2] if cache else 0


def joined(cache: Cache | None, new: Cache) -> Cache:
    """The cache with newer tokens behind."""
    if not cache:
        return new
    return tuple(
        Entry(*(_behind(one, other) for one, other in zip(old, added, strict=True)))
        for old, added in zip(cache, new, strict=True)
    )


def _behind(old: Grid, new: Grid) -> Grid:
    return new._replace(value=torch.cat([old.value, new.value], dim=2))


class RowRounding(nn.Module):
    """`AccumulatorRounding` of sums over the tokens up to each row."""

    def __init__(self, bit_width: int) -> None:
        """`bit_width` is the widest span of integers that may come out of any row."""
        super().__init__()
        self.rounding = AccumulatorRounding(bit_width)

    def forward(self, x: Grid, rows: Tensor) -> Grid:
        """(..., R, n) to the same shape; `x.lo` and `x.hi` bound one term, row r has rows[r] + 1.

        The scale of the result is one a row, and so is its range.
        """
        counts = (rows + 1).tolist()
        if len(counts) == 1:
            return self.rounding(x._replace(lo=x.lo * counts[0], hi=x.hi * counts[0]))
        parts = []
        for i, count in enumerate(counts):
            row = Grid(x.value[..., i, :], x.scale, x.lo * count, x.hi * count)
            parts.append(self.rounding(row))
        return Grid(
            torch.stack([part.value for part in parts], dim=-2),
            torch.stack([part.scale.reshape(()) for part in parts])[:, None],
            torch.stack([part.lo.reshape(()) for part in parts])[:, None],
            torch.stack([part.hi.reshape(()) for part in parts])[:, None],
        )


class CausalCore(nn.Module):
    """The part of causal attention between its projections."""

    def __init__(self, model: DecoderConfig, config: QuantConfig) -> None:
        """Quantizers of what is multiplied, summed and cached."""
        super().__init__()
        self.model = model
        self.query_quant, self.key_quant = (
            ActQuant(config.score_bit_width, narrow=config.act_narrow) for _ in range(2)
        )
        self.value_quant = ActQuant(config.value_bit_width, narrow=config.act_narrow)
        self.score_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.context_rounding = RowRounding(config.accumulator_bit_width)
        self.weight_quant = ActQuant(
            config.attention_bit_width, signed=False, narrow=config.act_narrow
        )
        self.context_quant = build_activation(config)
        # Of what heads find, free in its tables.
        self.gain = nn.Parameter(torch.ones(model.heads, 1, model.head_value_dim))
        self.distance_bias = nn.Parameter(torch.zeros(model.heads, model.context))
        if model.attention == "softmax":
            self.score_quant = ActQuant(config.softmax_bit_width)
            self.log_quant = ActQuant(config.softmax_bit_width, share_scale_of=self.score_quant)
            self.exp_quant = ActQuant(config.exp_bit_width, signed=False)
            self.sum_rounding = RowRounding(config.statistic_bit_width)
            self.difference_rounding = AccumulatorRounding(config.accumulator_bit_width)

    def forward(self, q: Grid, k: Grid, v: Grid, rows: Tensor) -> Grid:
        """Rows of q (B, h, R, d) look at tokens of k, v (B, groups, n, d): codes (B, R, h * d).

        `rows` are their positions; in training all of them, in a step the last one, n - 1.
        """
        k, v = self._repeated(k), self._repeated(v)
        product = matmul(q, k._replace(value=k.value.transpose(-1, -2)))  # (B, h, R, n)
        scores = self.score_rounding(product).value * (1 / math.sqrt(self.model.score_dim))
        count = k.value.shape[2]
        # (h, R, n) and (R, n)
        bias = constant(by_distance(self.distance_bias, count)[:, rows])
        hidden = future(count)[rows]
        weights = self._weights(scores + bias, hidden, rows)
        term = matmul(weights, v)
        each = term._replace(lo=term.lo / count, hi=term.hi / count)
        found = self.context_quant(self.context_rounding(each, rows).value * self.gain)
        merged = found.value.transpose(1, 2)
        return found._replace(value=merged.reshape(*merged.shape[:2], -1))

    def _repeated(self, x: Grid) -> Grid:
        repeats = self.model.heads // self.model.groups
        if repeats == 1:
            return x
        batch, groups, n, d = x.value.shape
        spread = x.value.unsqueeze(2).expand(batch, groups, repeats, n, d)
        return x._replace(value=spread.reshape(batch, groups * repeats, n, d))

    def _weights(self, scores: Tensor, hidden: Tensor, rows: Tensor) -> Grid:
        """(B, h, R, n), zero where `hidden`."""
        if self.model.attention == "sigmoid":
            return _masked(self.weight_quant(torch.sigmoid(scores)), hidden)
        p = self.score_quant(scores)
        e = _masked(self.exp_quant(torch.exp(p.value)), hidden)
        total = self.sum_rounding(e._replace(value=e.value.sum(-1, keepdim=True)), rows)
        # Half a step more: the logarithm of a sum that rounds to zero stays finite.
        log = self.log_quant(torch.log(total.value + constant(0.5 * total.scale)))
        difference = Grid(p.value - log.value, p.scale, p.lo - log.hi, p.hi - log.lo)
        shares = torch.exp(self.difference_rounding(difference).value)
        return _masked(self.weight_quant(shares), hidden)


class CausalDecoder(nn.Module, ABC):
    """A quantized decoder: whole texts in training, one token behind a cache when it writes."""

    def __init__(self, model: DecoderConfig, config: QuantConfig) -> None:
        """The shape of the float model, and bit widths."""
        super().__init__()
        self.model, self.config = model, config

    @property
    @abstractmethod
    def cores(self) -> list[CausalCore]:
        """Attention of every block."""

    @abstractmethod
    def run(
        self, tokens: Tensor, cache: Cache | None = None, *, answer: bool = True
    ) -> tuple[Tensor | None, Cache]:
        """Logits of `tokens` (B, T) behind those of the `cache`, and what is new for the cache.

        Without `answer` only the latter.
        """

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, vocabulary)."""
        logits, _ = self.run(tokens)
        assert logits is not None
        return logits


def _masked(x: Grid, hidden: Tensor) -> Grid:
    if torch.onnx.is_in_onnx_export():
        return x  # the one row of a step sees all of its tokens
    return x._replace(value=x.value.masked_fill(hidden, 0.0))
