"""Multi-head softmax self-attention: tokens in, tokens out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Softmax(q k^T / sqrt(d)) v over `heads` heads of `head_dim` dimensions each."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        """Four projections with biases."""
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.query = nn.Linear(dim, heads * head_dim)
        self.key = nn.Linear(dim, heads * head_dim)
        self.value = nn.Linear(dim, heads * head_dim)
        self.out = nn.Linear(heads * head_dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)  # (B, h, T, d)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) to (B, T, dim)."""
        q, k, v = (self._split(p(x)) for p in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)  # (B, h, T, T)
        context = torch.softmax(scores, dim=-1) @ v  # (B, h, T, d)
        return self.out(context.transpose(1, 2).flatten(2))
