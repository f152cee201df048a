"""What tells tokens apart by their place: vectors added to the embedding, or rotations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusformer.models.config import ROTARY_BASE, ModelConfig


def position_vectors(config: ModelConfig) -> Tensor | None:
    """(tokens, dim) to add to the embedding: a parameter, a constant, or None for the other kinds.

    Sinusoids are those of arXiv 1706.03762, sines first.
    """
    if config.positions == "learned":
        width = 0.02 if config.vocabulary is None else 0.1
        return nn.Parameter(width * torch.randn(config.tokens, config.dim))
    if config.positions == "sinusoidal":
        pairs = -(-config.dim // 2)
        rates = 10_000 ** (-torch.arange(pairs) / pairs)
        angles = torch.arange(config.tokens)[:, None] * rates
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)[:, : config.dim]
    return None


def rotations(config: ModelConfig) -> Tensor | None:
    """(tokens, d, d): the matrix that turns pairs of dimensions at each position; None for others.

    >>> config = ModelConfig(
    ...     tokens=2, vocabulary=2, causal=True, dim=2, heads=1, positions="rotary")
    >>> bool((rotations(config)[0] == torch.eye(2)).all())  # nothing turns at the first position
    True
    """
    if config.positions != "rotary":
        return None
    d = config.score_dim
    rates = (config.rotary_base or ROTARY_BASE) ** -(torch.arange(0, d, 2) / d)
    angles = torch.arange(config.tokens)[:, None] * rates  # (tokens, d / 2)
    matrices = torch.zeros(config.tokens, d, d)
    even = torch.arange(0, d, 2)
    cos, sin = torch.cos(angles), torch.sin(angles)
    matrices[:, even, even], matrices[:, even + 1, even + 1] = cos, cos
    matrices[:, even, even + 1], matrices[:, even + 1, even] = sin, -sin
    return matrices


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """(B, h, T, d), each token by its own matrix of `turns` (T, d, d)."""
    return torch.einsum("bhtd,tde->bhte", x, turns)


def by_distance(bias: Tensor, count: int, *, causal: bool) -> Tensor:
    """A bias a distance to (heads, T, T): that of i - j where token i looks at token j.

    Of a `causal` model (heads, tokens) biases are for the distances from 0, and later tokens get
    the first; else (heads, 2 * tokens - 1) are for all, that of 0 in the middle.
    """
    places = torch.arange(count)
    distance = places[:, None] - places[None, :]
    return bias[:, distance.clamp(min=0) if causal else distance + bias.shape[1] // 2]
