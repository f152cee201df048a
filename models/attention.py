"""Multi-head attention: tokens in, tokens out; its kinds in one registry.

| kind | context of query i | source |
|---|---|---|
| softmax | sum_j softmax_j(s_ij) v_j, s_ij = q_i k_j / sqrt(d) | arXiv 1706.03762 |
| relu | sum_j relu(s_ij) / T v_j | arXiv 2309.08586 |
| quad | sum_j (s_ij + 5)^2 / sum_j (s_ij + 5)^2 v_j | arXiv 2211.01452 |
| sigmoid | sum_j sigmoid(s_ij + b) v_j, b from -log(T) on | arXiv 2409.04431 |
| tanh | sum_j tanh(s_ij) v_j | |
| inhibitor | sum_j relu(v_j - z_ij) / T, z = relu(sum abs(q_i - k_j) / sqrt(d) - 1/2) |
    arXiv 2310.02041 |
| table | softmax over sum_g M_g[code(q_i)_g, code(k_j)_g], v as above | below |

j runs over the tokens that i sees; T is their number but for padding. Table attention has no
products: queries and keys are `groups` codes of two bits, and M_g are learned tables of 4 x 4
scores. In floating point codes are real and M is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torusformer.models.config import AttentionKind, ModelConfig
from torusformer.models.positions import by_distance, rotations, turned

CODES = 4  # of a query or key in table attention: two bits each
QUAD_SHIFT = 5.0
INHIBITOR_SHIFT = 0.5


@dataclass(frozen=True)
class Seen:
    """Which tokens each query sees: `mask` (.., R, T) of 0 and 1, and how many but for padding.

    `counts` (R, 1) is that number a row; the mask may have leading axes of batch and heads.
    """

    mask: Tensor
    counts: Tensor


def _as_they_are(scores: Tensor) -> Tensor:
    return scores


@dataclass(frozen=True)
class Heads:
    """What attention between its projections consists of, besides its shape.

    `noted` gives back the scores (B, h, Q, T) that it is called with: who wants to see them does so
    there.
    """

    config: ModelConfig
    tables: Tensor | None = None  # (h, G, 4, 4)
    distance_bias: Tensor | None = None  # (h, distances)
    noted: Callable[[Tensor], Tensor] = _as_they_are

    def attend(self, q: Tensor, k: Tensor | None, v: Tensor, keep: Tensor | None) -> Tensor:
        """Projected queries (B, Q, h * d), keys and values (B, T, g * d) to (B, Q, h * d).

        Where a learned query asks, q are its scores (B, T, h) and there are no keys. `keep` (B, T)
        is 0 where a token is padding and 1 elsewhere.
        """
        config = self.config
        v = split(v, config.key_heads).repeat_interleave(config.heads // config.key_heads, dim=1)
        if k is None:
            q = q.transpose(1, 2).unsqueeze(2)  # (B, h, 1, T)
        else:
            q, k = split(q, config.heads), split(k, config.key_heads)
            turns = rotations(config)
            if turns is not None:
                q, k = (turned(part, turns[: part.shape[2]]) for part in (q, k))
            k = k.repeat_interleave(config.heads // config.key_heads, dim=1)
        seen = visible(q.shape[2], v.shape[2], causal=config.causal)
        mask = seen if keep is None else seen * keep[:, None, None, :]
        found = CONTEXTS[config.attention](self, q, k, v, Seen(mask, seen.sum(-1, keepdim=True)))
        return found.transpose(1, 2).flatten(2)

    def scores(self, q: Tensor, k: Tensor | None) -> Tensor:
        """(B, h, Q, d) and (B, h, T, d) to q k / sqrt(d) and a bias, (B, h, Q, T)."""
        if k is None:
            return self.noted(q)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.config.score_dim)
        if self.distance_bias is not None:
            bias = by_distance(self.distance_bias, k.shape[2], causal=self.config.causal)
            scores = scores + bias
        return self.noted(scores)


Context = Callable[[Heads, Tensor, Tensor | None, Tensor, Seen], Tensor]


class Attention(nn.Module):
    """What `config.heads` heads of the kind `config.attention` find in the values."""

    def __init__(self, config: ModelConfig) -> None:
        """Four projections with biases, and what a kind or a head learns besides."""
        super().__init__()
        self.config = config
        heads, groups = config.heads, config.key_heads
        self.query = nn.Linear(config.dim, heads * config.key_dim)
        self.key = nn.Linear(config.dim, groups * config.key_dim)
        self.value = nn.Linear(config.dim, groups * config.head_value_dim)
        self.out = nn.Linear(heads * config.head_value_dim, config.dim)
        table = config.attention == "table"
        self.tables = nn.Parameter(product_tables(heads, config.key_dim)) if table else None
        self.distance_bias = distance_bias(config)
        self.scores = nn.Identity()  # they pass it, so that hooks see them

    def forward(self, x: Tensor, query: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """(B, T, dim) to (B, T, dim), or to (B, Q, dim) where a `query` (B, Q, dim) asks.

        `keep` (B, T) is 0 where a token is padding and 1 elsewhere.
        """
        heads = Heads(self.config, self.tables, self.distance_bias, self.scores)
        q, k, v = self.query(x if query is None else query), self.key(x), self.value(x)
        return self.out(heads.attend(q, k, v, keep))


def distance_bias(config: ModelConfig) -> nn.Parameter | None:
    """(heads, distances) biases of scores where the model learns them.

    A sigmoid has no rival tokens to share with: it starts low.
    """
    if not config.distance_bias and config.attention != "sigmoid":
        return None
    start = -math.log(config.tokens) if config.attention == "sigmoid" else 0.0
    count = config.tokens if config.causal else 2 * config.tokens - 1
    return nn.Parameter(torch.full((config.heads, count), start))


def split(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) to (B, heads, T, d)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def visible(rows: int, count: int, *, causal: bool) -> Tensor:
    """(rows, count) of 1 where a query sees a token and 0 where it is later, else 0."""
    ones = torch.ones(rows, count)
    return torch.tril(ones) if causal else ones


def _softmax(heads: Heads, q: Tensor, k: Tensor | None, v: Tensor, seen: Seen) -> Tensor:
    return shares(heads.scores(q, k), seen) @ v


def _relu(heads: Heads, q: Tensor, k: Tensor | None, v: Tensor, seen: Seen) -> Tensor:
    return torch.relu(heads.scores(q, k)) * seen.mask / seen.counts @ v


def _quad(heads: Heads, q: Tensor, k: Tensor | None, v: Tensor, seen: Seen) -> Tensor:
    square = (heads.scores(q, k) + QUAD_SHIFT) ** 2 * seen.mask
    return square / square.sum(-1, keepdim=True) @ v


def _sigmoid(heads: Heads, q: Tensor, k: Tensor | None, v: Tensor, seen: Seen) -> Tensor:
    return torch.sigmoid(heads.scores(q, k)) * seen.mask @ v


def _tanh(heads: Heads, q: Tensor, k: Tensor | None, v: Tensor, seen: Seen) -> Tensor:
    return torch.tanh(heads.scores(q, k)) * seen.mask @ v


def _inhibitor(heads: Heads, q: Tensor, k: Tensor | None, v: Tensor, seen: Seen) -> Tensor:
    assert k is not None
    distance = (q.unsqueeze(3) - k.unsqueeze(2)).abs().sum(-1)  # (B, h, T, T)
    z = torch.relu(distance / math.sqrt(heads.config.score_dim) - INHIBITOR_SHIFT)
    kept = torch.relu(v.unsqueeze(2) - z.unsqueeze(-1)) * seen.mask.unsqueeze(-1)
    return kept.sum(3) / seen.counts


def _table(heads: Heads, q: Tensor, k: Tensor | None, v: Tensor, seen: Seen) -> Tensor:
    assert heads.tables is not None and k is not None
    scores = heads.noted(table_scores(heads.tables, codes(q), codes(k)))
    return shares(scores, seen) @ v


CONTEXTS: Mapping[AttentionKind, Context] = {
    "softmax": _softmax,
    "relu": _relu,
    "quad": _quad,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "inhibitor": _inhibitor,
    "table": _table,
}


def shares(scores: Tensor, seen: Seen) -> Tensor:
    """The softmax of each row over the tokens that it sees."""
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(seen.mask == 0, lowest), dim=-1)


def product_tables(heads: int, groups: int) -> Tensor:
    """(heads, groups, 4, 4): the scores of centred codes multiplied, where learning starts."""
    centred = torch.arange(CODES) - (CODES - 1) / 2
    return torch.outer(centred, centred).repeat(heads, groups, 1, 1) * 0.5


def codes(x: Tensor) -> Tensor:
    """Any real number to the range of codes, [0, 3]."""
    return torch.sigmoid(x) * (CODES - 1)


def table_scores(tables: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Codes (B, h, Q, G) and (B, h, T, G) to scores (B, h, Q, T).

    `tables` (h, G, 4, 4) is interpolated linearly in both codes; whole codes give its entries.
    """
    grid = torch.arange(CODES, dtype=q.dtype)
    near_q = torch.relu(1 - (q.unsqueeze(-1) - grid).abs())  # (B, h, Q, G, 4)
    near_k = torch.relu(1 - (k.unsqueeze(-1) - grid).abs())
    rows = torch.einsum("bhqgi,hgij->bhqgj", near_q, tables)
    return rows.flatten(3) @ near_k.flatten(3).transpose(-1, -2)
