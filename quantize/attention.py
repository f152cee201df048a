"""Attention in table form: a grid of tokens in, what the output projection sums up out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torusformer.models.attention import (
    CODES,
    INHIBITOR_SHIFT,
    QUAD_SHIFT,
    Attention,
    codes,
    table_scores,
)
from torusformer.models.config import TransformerConfig
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import AccumulatorRounding, RoundedLinear, matmul
from torusformer.quantize.quantizers import ActQuant, Grid, build_activation, constant


class _Attention(nn.Module):
    """What all kinds have: values, their sums, a projection."""

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """One quantizer for each integer that is multiplied or summed."""
        super().__init__()
        self.heads, self.head_dim, self.tokens = model.heads, model.score_dim, model.tokens
        self.value = RoundedLinear(model.dim, self.heads * self.head_dim, config)
        self.out = RoundedLinear(self.heads * self.head_dim, model.dim, config, into_stream=True)
        self.value_quant = ActQuant(config.value_bit_width, narrow=True)
        self.context_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.context_quant = build_activation(config)

    def _split(self, x: Grid) -> Grid:
        value = x.value.reshape(-1, self.tokens, self.heads, x.value.shape[-1] // self.heads)
        return x._replace(value=value.transpose(1, 2))  # (B, h, T, d)

    def _project(self, context: Grid) -> Tensor:
        """Sums over tokens (B, h, queries, d) to (B, queries, dim)."""
        c = self.context_quant(self.context_rounding(context).value)
        queries = c.value.shape[2]
        merged = c.value.transpose(1, 2).reshape(-1, queries, self.heads * self.head_dim)
        return self.out(c._replace(value=merged))


class Weights(nn.Module):
    """Scores (B, h, queries, T) to attention weights, without a product.

    softmax is exp(p - log(sum(exp p))): tables around one sum. quad is the softmax of
    p = 2 log(s + 5). relu is one table.
    """

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """Scores and log-sums share a grid: their difference is an integer subtraction."""
        super().__init__()
        self.kind, self.tokens = model.attention, model.tokens
        self.weight_quant = ActQuant(config.attention_bit_width, signed=False)
        if self.kind != "relu":
            self.score_quant = ActQuant(config.softmax_bit_width)
            self.log_quant = ActQuant(config.softmax_bit_width, share_scale_of=self.score_quant)
            self.exp_quant = ActQuant(config.exp_bit_width, signed=False)
            self.sum_rounding = AccumulatorRounding(config.statistic_bit_width)
            self.difference_rounding = AccumulatorRounding(config.accumulator_bit_width)

    def forward(self, scores: Tensor) -> Grid:
        """As wide as the scores."""
        if self.kind == "relu":
            return self.weight_quant(torch.relu(scores) * (1 / self.tokens))
        if self.kind == "quad":
            scores = torch.log((scores + QUAD_SHIFT) ** 2 + 0.01)
        p = self.score_quant(scores)
        e = self.exp_quant(torch.exp(p.value))
        n = self.tokens
        total = Grid(e.value.sum(-1, keepdim=True), e.scale, n * e.lo, n * e.hi)
        total = self.sum_rounding(total)
        # Half a step more: the logarithm of a sum that rounds to zero stays finite.
        log = self.log_quant(torch.log(total.value + constant(0.5 * total.scale)))
        difference = Grid(p.value - log.value, p.scale, p.lo - log.hi, p.hi - log.lo)
        return self.weight_quant(torch.exp(self.difference_rounding(difference).value))


class QuantAttention(_Attention):
    """Every token weighs every token by the product of its query and their keys."""

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """Queries and keys beside what all attention has."""
        super().__init__(model, config)
        inner = self.heads * self.head_dim
        self.query, self.key = (RoundedLinear(model.dim, inner, config) for _ in range(2))
        self.query_quant, self.key_quant = (ActQuant(config.score_bit_width) for _ in range(2))
        self.score_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.weights = Weights(model, config)

    def forward(self, x: Grid) -> Tensor:
        """(B, T, dim) to (B, T, dim), not yet quantized."""
        q = self._split(self.query_quant(self.query(x)))
        k = self._split(self.key_quant(self.key(x)))
        product = matmul(q, k._replace(value=k.value.transpose(-1, -2)))  # (B, h, T, T)
        a = self.weights(self.score_rounding(product).value * (1 / math.sqrt(self.head_dim)))
        return self._project(matmul(a, self._split(self.value_quant(self.value(x)))))


class QuantQueryAttention(_Attention):
    """Attention of one learned query: with it folded into the keys, scores are linear in x."""

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """One score a head and token."""
        super().__init__(model, config)
        self.score = RoundedLinear(model.dim, self.heads, config)
        self.weights = Weights(model, config)

    def forward(self, x: Grid) -> Tensor:
        """(B, T, dim) to (B, 1, dim), not yet quantized."""
        scores = self.score(x).transpose(1, 2).reshape(-1, self.heads, 1, self.tokens)
        a = self.weights(scores)
        return self._project(matmul(a, self._split(self.value_quant(self.value(x)))))


class QuantTableAttention(_Attention):
    """Scores from learned tables: one bootstrap a pair of codes and group, and no product."""

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """Codes are whole numbers from 0 to 3; entries of the tables have a grid of their own."""
        super().__init__(model, config)
        self.groups = model.groups
        inner = self.heads * self.groups
        self.query, self.key = (RoundedLinear(model.dim, inner, config) for _ in range(2))
        self.query_quant, self.key_quant = (ActQuant(2, signed=False) for _ in range(2))
        for quant in (self.query_quant, self.key_quant):
            quant.requires_grad_(False)
            quant.is_fixed = True
        self.tables = nn.Parameter(torch.zeros(self.heads, self.groups, CODES, CODES))
        self.table_quant = ActQuant(config.softmax_bit_width)
        self.score_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.weights = Weights(model, config)

    def forward(self, x: Grid) -> Tensor:
        """(B, T, dim) to (B, T, dim), not yet quantized."""
        q, k = codes(self.query(x)), codes(self.key(x))
        whole_q, whole_k = (
            self._split(quant(code)) for quant, code in ((self.query_quant, q), (self.key_quant, k))
        )
        scores = self._looked_up(whole_q, whole_k)
        if self.training:
            # Whole codes stand still under small changes: the gradient is that of real codes.
            real = (self._split(whole_q._replace(value=code)).value for code in (q, k))
            smooth = table_scores(self.tables.detach(), *real)
            scores = scores._replace(value=scores.value + smooth - smooth.detach())
        a = self.weights(self.score_rounding(scores).value)
        return self._project(matmul(a, self._split(self.value_quant(self.value(x)))))

    def _looked_up(self, q: Grid, k: Grid) -> Grid:
        if torch.onnx.is_in_onnx_export():
            # Place of the pair in the flat tables: (head, group, q, k).
            start = torch.arange(self.heads * self.groups).reshape(1, self.heads, 1, 1, self.groups)
            pair = q.value.unsqueeze(3) * CODES + k.value.unsqueeze(2)  # (B, h, T, T, G)
            entry = constant(self.tables).flatten()[(pair + start * CODES**2).long()]
            found = self.table_quant(entry)
            total = found.value.sum(-1)
        else:
            found = self.table_quant(self.tables)
            total = table_scores(found.value, q.value.detach(), k.value.detach())
        return Grid(total, found.scale, self.groups * found.lo, self.groups * found.hi)


class QuantInhibitor(_Attention):
    """mean_j relu(v_j - z_ij) of distances z: subtractions and tables, no product at all."""

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """Queries share a grid with keys, distances with values."""
        super().__init__(model, config)
        bits, inner = config.score_bit_width, self.heads * self.head_dim
        self.query, self.key = (RoundedLinear(model.dim, inner, config) for _ in range(2))
        self.query_quant = ActQuant(bits)
        self.key_quant = ActQuant(bits, share_scale_of=self.query_quant)
        self.gap_quant = ActQuant(bits, signed=False, share_scale_of=self.query_quant)
        self.distance_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.distance_quant = ActQuant(
            config.value_bit_width, signed=False, share_scale_of=self.value_quant
        )
        self.kept_quant = ActQuant(
            config.value_bit_width - 1, signed=False, share_scale_of=self.value_quant
        )

    def forward(self, x: Grid) -> Tensor:
        """(B, T, dim) to (B, T, dim), not yet quantized."""
        q = self._split(self.query_quant(self.query(x))).value
        k = self._split(self.key_quant(self.key(x))).value
        v = self._split(self.value_quant(self.value(x)))
        gap = self.gap_quant((q.unsqueeze(3) - k.unsqueeze(2)).abs())  # (B, h, T, T, d)
        d, n = self.head_dim, self.tokens
        far = Grid(gap.value.sum(-1), gap.scale, d * gap.lo, d * gap.hi)
        far_value = self.distance_rounding(far).value * (1 / math.sqrt(d)) - INHIBITOR_SHIFT
        z = self.distance_quant(torch.relu(far_value)).value.unsqueeze(-1)
        kept = self.kept_quant(torch.relu(v.value.unsqueeze(2) - z))
        mean = kept.value.sum(3) * (1 / n)
        return self._project(Grid(mean, kept.scale / n, n * kept.lo, n * kept.hi))


def build_attention(
    model: TransformerConfig, config: QuantConfig, *, asks: bool = False
) -> _Attention:
    """The table form of `model.attention`; where a learned query `asks`, of its class attention."""
    if asks:
        return QuantQueryAttention(model, config)
    kinds = {"table": QuantTableAttention, "inhibitor": QuantInhibitor}
    return kinds.get(model.attention, QuantAttention)(model, config)


def asked(attention: Attention, query: Tensor) -> Tensor:
    """Scores of one query (1, dim) as a linear map (heads, dim), but for an offset a head.

    Softmax ignores that offset.
    """
    q = attention.query(query).reshape(attention.heads, attention.head_dim, 1)
    k = attention.key.weight.reshape(attention.heads, attention.head_dim, -1)
    return (q * k).sum(1) / math.sqrt(attention.head_dim)
