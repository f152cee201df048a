"""Causal self-attention: tokens in, tokens out, each from those up to itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torusformer.models.decoder_config import DecoderConfig


class CausalAttention(nn.Module):
    """Token i of (B, T, dim) is sum_j<=i of a_ij v_j, projected, by a score s_ij = q_i k_j / √d.

    a_ij is the softmax of s_i over j <= i, or sigmoid(s_ij).
    """

    def __init__(self, config: DecoderConfig) -> None:
        """Four projections with biases, and what a head knows of distances."""
        super().__init__()
        self.config = config
        heads, groups = config.heads, config.groups
        self.query = nn.Linear(config.dim, heads * config.score_dim)
        self.key = nn.Linear(config.dim, groups * config.score_dim)
        self.value = nn.Linear(config.dim, groups * config.head_value_dim)
        self.out = nn.Linear(heads * config.head_value_dim, config.dim)
        # A sigmoid has no rival tokens to share with: it starts low.
        start = -math.log(config.context) if config.attention == "sigmoid" else 0.0
        learned = config.distance_bias or config.attention == "sigmoid"
        self.distance_bias = (
            nn.Parameter(torch.full((heads, config.context), start)) if learned else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) to (B, T, dim)."""
        config, count = self.config, x.shape[1]
        q, k, v = (
            split(layer(x), heads)
            for layer, heads in (
                (self.query, config.heads), (self.key, config.groups), (self.value, config.groups),
            )
        )  # fmt: skip
        if config.positions == "rotary":
            turns = rotations(config)[:count]
            q, k = turned(q, turns), turned(k, turns)
        repeats = config.heads // config.groups
        k, v = (part.repeat_interleave(repeats, dim=1) for part in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(config.score_dim)  # (B, h, T, T)
        if self.distance_bias is not None:
            scores = scores + by_distance(self.distance_bias, count)
        hidden = future(count)
        if config.attention == "sigmoid":
            weights = torch.sigmoid(scores).masked_fill(hidden, 0.0)
        else:
            weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


def split(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) to (B, heads, T, d)."""
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(1, 2)


def future(count: int) -> Tensor:
    """(T, T), true where column j is later than row i."""
    return torch.triu(torch.ones(count, count, dtype=torch.bool), 1)


def by_distance(bias: Tensor, count: int) -> Tensor:
    """(heads, context) to (heads, T, T): entry i - j of a head; later tokens get entry 0."""
    steps = torch.arange(count)
    return bias[:, (steps[:, None] - steps[None, :]).clamp(min=0)]


def rotations(config: DecoderConfig) -> Tensor:
    """(context, d, d): the matrix that turns pairs of dimensions at each position.

    >>> config = DecoderConfig(vocabulary=2, context=2, dim=2, heads=1, positions="rotary")
    >>> rotations(config)[0].tolist()  # nothing turns at the first position
    [[1.0, 0.0], [-0.0, 1.0]]
    """
    d = config.score_dim
    rates = config.rotary_base ** -(torch.arange(0, d, 2) / d)
    angles = torch.arange(config.context)[:, None] * rates  # (context, d / 2)
    matrices = torch.zeros(config.context, d, d)
    even = torch.arange(0, d, 2)
    cos, sin = torch.cos(angles), torch.sin(angles)
    matrices[:, even, even], matrices[:, even + 1, even + 1] = cos, cos
    matrices[:, even, even + 1], matrices[:, even + 1, even] = sin, -sin
    return matrices


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """(B, h, T, d), each token by its own matrix of `turns` (T, d, d)."""
    return torch.einsum("bhtd,tde->bhte", x, turns)
