"""Normalisations over the last axis, all with a learned gain `weight` and shift `bias`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torusformer.models.config import Norm

EPSILON = 1e-5


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, statistics over the last axis."""

    def __init__(self, dim: int) -> None:
        """Gain one, shift zero, of size `dim`."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return centred * torch.rsqrt(variance + EPSILON) * self.weight + self.bias


class RMSNorm(nn.Module):
    """x / sqrt(mean of squares + eps) * weight + bias, statistics over the last axis."""

    def __init__(self, dim: int) -> None:
        """Gain one, shift zero, of size `dim`."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        square = (x * x).mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(square + EPSILON) * self.weight + self.bias


class BatchNorm(nn.Module):
    """Statistics a channel over batch and tokens; in inference a fixed affine map a channel."""

    def __init__(self, dim: int) -> None:
        """Running statistics of size `dim`."""
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Gain and shift a channel, each (dim,), equal to this norm in inference."""
        n = self.norm
        assert n.running_mean is not None and n.running_var is not None
        gain = n.weight.detach() * torch.rsqrt(n.running_var + n.eps)
        return gain, n.bias.detach() - n.running_mean * gain


class NoNorm(nn.Module):
    """Everything as it is; the quantized twin gives each channel a gain and a shift."""

    def __init__(self, dim: int) -> None:
        """`dim` is what the others take."""
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return x


NORMS: Mapping[Norm, type[nn.Module]] = {
    "layer": LayerNorm,
    "rms": RMSNorm,
    "batch": BatchNorm,
    "none": NoNorm,
}


def build_norm(kind: Norm, dim: int) -> nn.Module:
    """The norm named `kind` over `dim` channels."""
    return NORMS[kind](dim)
