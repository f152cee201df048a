"""Scores (B, h, R, T) in, codes of attention weights out: no product on the way, only tables.

Softmax is exp(p - log(sum(exp p))): tables around one sum. quad is the softmax of
p = 2 log(s + 5). relu and sigmoid are one table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torusformer.models.attention import QUAD_SHIFT
from torusformer.models.config import AttentionKind
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import AccumulatorRounding, RowRounding
from torusformer.quantize.quantizers import ActQuant, Grid, build_code, constant
from torusformer.quantize.walk import Rows


class Weights(nn.Module, ABC):
    """How much of each value is taken, by its score."""

    def __init__(self, config: QuantConfig) -> None:
        """The grid of the weights."""
        super().__init__()
        self.weight_quant = ActQuant(
            config.attention_bit_width, signed=False, narrow=config.attention_narrow
        )

    @abstractmethod
    def forward(self, scores: Tensor, rows: Rows) -> Grid:
        """As wide as the scores, 0 where a row does not see a token."""


class SoftmaxWeights(Weights):
    """Scores and log-sums share a grid: their difference is an integer subtraction."""

    def __init__(self, config: QuantConfig) -> None:
        """Grids of scores, exponentials and the logarithm of their sum."""
        super().__init__(config)
        self.score_quant = ActQuant(config.softmax_bit_width)
        self.log_quant = ActQuant(config.softmax_bit_width, share_scale_of=self.score_quant)
        self.exp_quant = ActQuant(config.exp_bit_width, signed=False)
        self.sum_rounding = RowRounding(config.statistic_bit_width)
        self.difference_rounding = AccumulatorRounding(config.accumulator_bit_width)

    def forward(self, scores: Tensor, rows: Rows) -> Grid:
        """exp(p - log(sum(exp p)))."""
        p, mask = self.score_quant(scores), rows.mask(scores.shape[2])
        e = self.exp_quant(_seen(torch.exp(p.value), mask))
        summed = e._replace(value=e.value.sum(-1, keepdim=True))
        total = self.sum_rounding.rows(summed, rows.counts(scores.shape[2]))
        # Half a unit more: the logarithm of a sum that rounds to zero stays finite.
        log = self.log_quant(torch.log(total.value + constant(0.5 * total.scale)))
        difference = Grid(p.value - log.value, p.scale, p.lo - log.hi, p.hi - log.lo)
        shares = torch.exp(self.difference_rounding(difference).value)
        return self.weight_quant(_seen(shares, mask))


class QuadWeights(SoftmaxWeights):
    """(s + 5)^2 by its sum."""

    def forward(self, scores: Tensor, rows: Rows) -> Grid:
        """Softmax of the logarithm."""
        return super().forward(torch.log((scores + QUAD_SHIFT) ** 2 + 0.01), rows)


class ReluWeights(Weights):
    """What is positive, by the number of tokens."""

    def forward(self, scores: Tensor, rows: Rows) -> Grid:
        """One table."""
        count = scores.shape[2]
        found = torch.relu(scores) * rows.shares(count)
        return self.weight_quant(_seen(found, rows.mask(count)))


class SigmoidWeights(Weights):
    """Each token by itself."""

    def forward(self, scores: Tensor, rows: Rows) -> Grid:
        """One table."""
        return self.weight_quant(_seen(torch.sigmoid(scores), rows.mask(scores.shape[2])))


class TanhWeights(Weights):
    """Each token by itself, taken or subtracted; an odd function: scores may wrap."""

    def __init__(self, config: QuantConfig) -> None:
        """Weights of either sign."""
        super().__init__(config)
        self.weight_quant = build_code(config.attention_bit_width, narrow=True)

    def forward(self, scores: Tensor, rows: Rows) -> Grid:
        """One table."""
        return self.weight_quant(_seen(torch.tanh(scores), rows.mask(scores.shape[2])))


WEIGHTS: Mapping[AttentionKind, type[Weights]] = {
    "softmax": SoftmaxWeights,
    "table": SoftmaxWeights,
    "quad": QuadWeights,
    "relu": ReluWeights,
    "sigmoid": SigmoidWeights,
    "tanh": TanhWeights,
}


def _seen(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask
