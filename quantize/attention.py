"""Attention between its projections, in table form: queries, keys and values in, codes out.

One core for all: grouped keys, rotations, masks, cached tokens, rows that see different numbers of
tokens. A kind says how scores come about (`ATTENTION`) and what they weigh (`WEIGHTS`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torusformer import InputError
from torusformer.models.attention import CODES, INHIBITOR_SHIFT, codes, split, table_scores
from torusformer.models.config import AttentionKind, ModelConfig
from torusformer.models.positions import by_distance, rotations, turned
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.graph import Attend
from torusformer.quantize.layers import AccumulatorRounding, RowRounding, matmul
from torusformer.quantize.quantizers import (
    ActQuant,
    Grid,
    build_activation,
    build_code,
    constant,
    quantize_to,
)
from torusformer.quantize.rings import Folding
from torusformer.quantize.walk import Entry, Rows
from torusformer.quantize.weights import WEIGHTS

TURN_UNITS = 3  # of a cosine: rotations of codes are matrices of thirds


class Found(NamedTuple):
    """What each row sums up: `terms.lo` and `terms.hi` bound one term; times `factor`."""

    terms: Grid
    factor: Tensor | float = 1.0


class Setting(NamedTuple):
    """What an attention is made from.

    `known` says that queries, keys and values depend on a token and its position alone,
    `share_scale_of` puts what heads find on the grid of another code.
    """

    model: ModelConfig
    config: QuantConfig
    op: Attend
    known: bool
    share_scale_of: ActQuant | None


class QuantAttention(nn.Module, ABC):
    """What all kinds have: values, their sums, the codes of what heads find."""

    def __init__(self, at: Setting) -> None:
        """Grids of values and of what heads find."""
        super().__init__()
        config, model = at.config, at.model
        self.model, self.known = model, at.known
        self.value_quant = build_code(config.value_bit_width, narrow=config.value_narrow)
        ring = config.rings.get("context")
        self.context_rounding = (
            RowRounding(config.accumulator_bit_width) if ring is None else Folding(ring)
        )
        self.context_quant: ActQuant | None = None
        if config.context_table:
            self.context_quant = build_activation(config, share_scale_of=at.share_scale_of)
        elif not at.op.asks or model.attention != "tanh" or config.gains:
            raise InputError(
                "context_table is false, and only what a learned query finds by attention tanh, "
                "without gains, is read as it is; set context_table"
            )
        self.gain = (
            nn.Parameter(torch.ones(model.heads, 1, model.head_value_dim)) if config.gains else None
        )

    @abstractmethod
    def find(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Found:
        """What rows of q (B, h, R, d) see of k and v (B, g, R, d) and what is cached."""

    def forward(self, q: Tensor, k: Tensor | None, v: Tensor, rows: Rows) -> Grid:
        """Sums (B, R, h * d) of queries, keys and values to codes (B, R, h * d)."""
        model = self.model
        if k is None:  # scores of a learned query (B, T, h)
            q = k = q.transpose(1, 2).reshape(-1, model.heads, 1, q.shape[1])
        else:
            q, k = split(q, model.heads), split(k, model.key_heads)
        terms, factor = self.find(q, k, split(v, model.key_heads), rows)
        counts = rows.counts(terms.value.shape[-2])
        if self.context_quant is None:
            (count,) = set(counts)
            found = terms._replace(lo=terms.lo * count, hi=terms.hi * count)
        else:
            context = self.context_rounding.rows(terms, counts).value * factor
            found = self.context_quant(context if self.gain is None else context * self.gain)
        merged = found.value.transpose(1, 2)
        return found._replace(value=merged.reshape(merged.shape[0], merged.shape[1], -1))

    def _for_each_head(self, x: Grid) -> Grid:
        """(B, g, T, d) to (B, h, T, d): groups of heads share keys and values."""
        repeats = self.model.heads // self.model.key_heads
        if repeats == 1:
            return x
        batch, groups, n, d = x.value.shape
        spread = x.value.unsqueeze(2).expand(batch, groups, repeats, n, d)
        return x._replace(value=spread.reshape(batch, groups * repeats, n, d))

    def _with_cached(self, keys: Grid, values: Grid, rows: Rows) -> tuple[Grid, Grid]:
        """Keys and values of all tokens seen, a head of them for each head of queries."""
        entry = rows.with_cached(Entry(keys, values))
        return self._for_each_head(entry.keys), self._for_each_head(entry.values)


class ProductAttention(QuantAttention):
    """Every token weighs every token by the product of its query and their keys."""

    def __init__(self, at: Setting) -> None:
        """Queries and keys besides; codes that are turned are looked up again."""
        super().__init__(at)
        model, config, op = at[:3]
        bits = config.score_bit_width
        self.query_quant, self.key_quant = (
            build_code(bits, narrow=config.score_narrow) for _ in range(2)
        )
        self.turns = rotations(model)
        if self.turns is not None and not at.known:
            self.before_turn = nn.ModuleList(ActQuant(bits, narrow=True) for _ in range(2))
        ring = config.rings.get("score")
        self.score_rounding = (
            AccumulatorRounding(config.accumulator_bit_width) if ring is None else Folding(ring)
        )
        self.distance_bias = (
            None if op.distance_bias is None else nn.Parameter(op.distance_bias.clone())
        )
        self.weights = WEIGHTS[model.attention](config)

    def find(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Found:
        """Products, weights, products."""
        q, k = self._turned(q, k, rows)
        asking = self.query_quant(q)
        keys, values = self._with_cached(self.key_quant(k), self.value_quant(v), rows)
        product = matmul(asking, keys._replace(value=keys.value.transpose(-1, -2)))  # (B, h, R, n)
        count, unit = keys.value.shape[2], 1 / math.sqrt(self.model.score_dim)
        bias = None
        if self.distance_bias is not None:
            bias = by_distance(self.distance_bias, count, causal=self.model.causal)
            bias = bias[:, rows.positions(q.shape[2])]
        if isinstance(self.score_rounding, Folding):
            scores = (
                self.score_rounding(product, None if bias is None else bias / unit).value * unit
            )
        else:
            scores = self.score_rounding(product).value * unit
            scores = scores if bias is None else scores + constant(bias)
        return weighed(self.weights(scores, rows), values)

    def _turned(self, q: Tensor, k: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        if self.turns is None:
            return q, k
        turns = self.turns[rows.positions(q.shape[2])]
        if self.known:
            return turned(q, constant(turns)), turned(k, constant(turns))
        before = zip(self.before_turn, (q, k), strict=True)
        coded = [quant(part).value for quant, part in before]
        thirds = quantize_to(constant(turns), torch.tensor(1 / TURN_UNITS), 3)
        if len(turns) == 1:
            return coded[0] @ thirds[0], coded[1] @ thirds[0]
        if not torch.onnx.is_in_onnx_export():
            return turned(coded[0], thirds), turned(coded[1], thirds)
        each = [[x[:, :, i : i + 1] @ thirds[i] for i in range(len(turns))] for x in coded]
        return torch.cat(each[0], dim=2), torch.cat(each[1], dim=2)


class AskedAttention(QuantAttention):
    """Attention of one learned query: with it folded into the keys, scores are linear in tokens."""

    def __init__(self, at: Setting) -> None:
        """Weights beside what all attention has; of what is known, weighed values."""
        super().__init__(at)
        self.weights = WEIGHTS[at.model.attention](at.config)
        known = at.known and at.model.attention == "tanh"  # no softmax: each token by itself
        self.term_quant = ActQuant(at.config.token_bit_width, narrow=True) if known else None

    @property
    def term_span(self) -> int:
        """Highest less lowest integer of one token's part in what is found."""
        if self.term_quant is not None:
            return int(self.term_quant.hi - self.term_quant.lo)
        return 2 * int(self.weights.weight_quant.hi * self.value_quant.hi)

    def find(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Found:
        """`q` are the scores (B, h, 1, T)."""
        if self.model.zero_padding:  # whose values are zero whatever it weighs
            rows = replace(rows, keep=None)
        if self.term_quant is None:
            return weighed(self.weights(q, rows), self._for_each_head(self.value_quant(v)))
        v = v.repeat_interleave(self.model.heads // self.model.key_heads, dim=1)
        term = self.term_quant(torch.tanh(q).transpose(-1, -2) * v)
        return Found(term._replace(value=term.value.sum(2, keepdim=True)))


class TableAttention(QuantAttention):
    """Scores from learned tables: one bootstrap a pair of codes and group, and no product."""

    def __init__(self, at: Setting) -> None:
        """Codes are whole numbers from 0 to 3; entries of the tables have a grid of their own."""
        super().__init__(at)
        model, config, op = at[:3]
        assert op.tables is not None, "the kind of attention that has them"
        self.query_quant, self.key_quant = (ActQuant(2, signed=False) for _ in range(2))
        for quant in (self.query_quant, self.key_quant):
            quant.requires_grad_(False)
            quant.is_fixed = True
        self.tables = nn.Parameter(op.tables.clone())  # (h, G, 4, 4)
        self.table_quant = ActQuant(config.softmax_bit_width)
        self.score_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.weights = WEIGHTS[model.attention](config)

    def find(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Found:
        """Entries of tables, weights, products."""
        real_q, real_k = codes(q), codes(k)
        whole_q = self.query_quant(real_q)
        whole_k, values = self._with_cached(self.key_quant(real_k), self.value_quant(v), rows)
        scores = self._looked_up(whole_q, whole_k)
        if self.training:
            # Whole codes stand still under small changes: the gradient is that of real codes.
            smooth = table_scores(self.tables.detach(), real_q, real_k)
            scores = scores._replace(value=scores.value + smooth - smooth.detach())
        return weighed(self.weights(self.score_rounding(scores).value, rows), values)

    def _looked_up(self, q: Grid, k: Grid) -> Grid:
        heads, groups = self.tables.shape[:2]
        if torch.onnx.is_in_onnx_export():
            # Place of the pair in the flat tables: (head, group, q, k).
            start = torch.arange(heads * groups).reshape(1, heads, 1, 1, groups)
            pair = q.value.unsqueeze(3) * CODES + k.value.unsqueeze(2)  # (B, h, R, T, G)
            entry = constant(self.tables).flatten()[(pair + start * CODES**2).long()]
            found = self.table_quant(entry)
            total = found.value.sum(-1)
        else:
            found = self.table_quant(self.tables)
            total = table_scores(found.value, q.value.detach(), k.value.detach())
        return Grid(total, found.scale, groups * found.lo, groups * found.hi)


class Inhibitor(QuantAttention):
    """sum_j relu(v_j - z_ij) of distances z: subtractions and tables, no product at all."""

    def __init__(self, at: Setting) -> None:
        """Queries share a grid with keys, distances with values."""
        super().__init__(at)
        config = at.config
        bits, value_bits = config.score_bit_width, config.value_bit_width
        self.query_quant = ActQuant(bits)
        self.key_quant = ActQuant(bits, share_scale_of=self.query_quant)
        self.gap_quant = ActQuant(bits, signed=False, share_scale_of=self.query_quant)
        self.distance_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.distance_quant, self.kept_quant = (
            ActQuant(width, signed=False, share_scale_of=self.value_quant)
            for width in (value_bits, value_bits - 1)
        )

    def find(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Found:
        """Distances, what they leave of values, its mean."""
        asking = self.query_quant(q).value
        keys, values = self._with_cached(self.key_quant(k), self.value_quant(v), rows)
        gap = self.gap_quant((asking.unsqueeze(3) - keys.value.unsqueeze(2)).abs())  # (B,h,R,T,d)
        d = self.model.score_dim
        far = Grid(gap.value.sum(-1), gap.scale, d * gap.lo, d * gap.hi)
        far_value = self.distance_rounding(far).value * (1 / math.sqrt(d)) - INHIBITOR_SHIFT
        z = self.distance_quant(torch.relu(far_value)).value.unsqueeze(-1)
        left = torch.relu(values.value.unsqueeze(2) - z)
        mask = rows.mask(q.shape[2])
        kept = self.kept_quant(left if mask is None else left * mask.unsqueeze(-1))
        terms = kept._replace(value=kept.value.sum(3))
        return Found(terms, rows.shares(q.shape[2]))


def weighed(weights: Grid, values: Grid) -> Found:
    """Weights (B, h, R, n) times values (B, h, n, d)."""
    total, count = matmul(weights, values), values.value.shape[2]
    return Found(total._replace(lo=total.lo / count, hi=total.hi / count))


ATTENTION: Mapping[AttentionKind, type[QuantAttention]] = {
    "softmax": ProductAttention,
    "relu": ProductAttention,
    "quad": ProductAttention,
    "sigmoid": ProductAttention,
    "tanh": ProductAttention,
    "table": TableAttention,
    "inhibitor": Inhibitor,
}
