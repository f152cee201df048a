"""Multi-head attention of four kinds of scores and the inhibitor: tokens in, tokens out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torusformer.models.config import AttentionKind

CODES = 4  # of a query or key in table attention: two bits each
QUAD_SHIFT = 5.0
INHIBITOR_SHIFT = 0.5


class Attention(nn.Module):
    """Weights of the values of `heads` heads of `head_dim` dimensions each, by `kind`.

    | kind | context of query i | source |
    |---|---|---|
    | softmax | sum_j softmax_j(q_i k_j / sqrt(d)) v_j | arXiv 1706.03762 |
    | relu | sum_j relu(q_i k_j / sqrt(d)) / T v_j | arXiv 2309.08586 |
    | quad | sum_j (s_ij + 5)^2 / sum_j (s_ij + 5)^2 v_j | arXiv 2211.01452 |
    | inhibitor | mean_j relu(v_j - z_ij), z = relu(sum abs(q_i - k_j) / sqrt(d) - 1/2) |
        arXiv 2310.02041 |
    | table | softmax over sum_g M_g[code(q_i)_g, code(k_j)_g], v as above | below |

    Table attention has no products: queries and keys are `groups` codes of two bits, and M_g are
    learned tables of 4 x 4 scores. In floating point codes are real and M is interpolated.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, kind: AttentionKind = "softmax", groups: int = 2
    ) -> None:
        """Four projections with biases."""
        super().__init__()
        self.heads, self.head_dim, self.kind = heads, head_dim, kind
        self.score_dim = groups if kind == "table" else head_dim
        self.query = nn.Linear(dim, heads * self.score_dim)
        self.key = nn.Linear(dim, heads * self.score_dim)
        self.value = nn.Linear(dim, heads * head_dim)
        self.out = nn.Linear(heads * head_dim, dim)
        if kind == "table":
            self.tables = nn.Parameter(product_tables(heads, groups))

    def _split(self, x: Tensor, dim: int) -> Tensor:
        return x.unflatten(-1, (self.heads, dim)).transpose(1, 2)  # (B, h, T, d)

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """(B, T, dim) to (B, T, dim), or to (B, Q, dim) where a `query` (B, Q, dim) asks."""
        q = self._split(self.query(x if query is None else query), self.score_dim)
        k = self._split(self.key(x), self.score_dim)
        v = self._split(self.value(x), self.head_dim)
        if self.kind == "inhibitor":
            distance = (q.unsqueeze(3) - k.unsqueeze(2)).abs().sum(-1)  # (B, h, T, T)
            z = torch.relu(distance / math.sqrt(self.head_dim) - INHIBITOR_SHIFT)
            context = torch.relu(v.unsqueeze(2) - z.unsqueeze(-1)).mean(3)
        else:
            context = self._weights(q, k) @ v  # (B, h, T, d)
        return self.out(context.transpose(1, 2).flatten(2))

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        if self.kind == "table":
            return torch.softmax(table_scores(self.tables, codes(q), codes(k)), dim=-1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)  # (B, h, T, T)
        if self.kind == "relu":
            return torch.relu(scores) / scores.shape[-1]
        if self.kind == "quad":
            square = (scores + QUAD_SHIFT) ** 2
            return square / square.sum(-1, keepdim=True)
        return torch.softmax(scores, dim=-1)


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
