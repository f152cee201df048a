"""Normalisations over the last axis, all with a learned gain `weight` and shift `bias`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from torusformer.models.config import Norm

EPSILON = 1e-5


class FloatNorm(nn.Module, ABC):
    """A norm over the last axis; one that `measures` its input, or an affine map in inference."""

    measures: ClassVar[bool] = True

    def __init__(self, dim: int, epsilon: float = EPSILON) -> None:
        """Gain one, shift zero, of size `dim`; `epsilon` is added to what is measured."""
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""

    def folded(self) -> tuple[Tensor, Tensor]:
        """Gain and shift a channel, each (dim,), behind what is measured."""
        return self.weight.detach(), self.bias.detach()


class LayerNorm(FloatNorm):
    """(x - mean) / sqrt(variance + eps) * weight + bias."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias


class RMSNorm(FloatNorm):
    """x / sqrt(mean of squares + eps) * weight + bias."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        square = (x * x).mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(square + self.epsilon) * self.weight + self.bias


class BatchNorm(FloatNorm):
    """Statistics a channel over batch and tokens; in inference a fixed affine map a channel."""

    measures = False

    def __init__(self, dim: int, epsilon: float = EPSILON) -> None:
        """Running statistics of size `dim`."""
        nn.Module.__init__(self)
        self.epsilon = epsilon
        self.norm = nn.BatchNorm1d(dim, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Gain and shift a channel, each (dim,), equal to this norm in inference."""
        n = self.norm
        assert n.running_mean is not None and n.running_var is not None
        gain = n.weight.detach() * torch.rsqrt(n.running_var + n.eps)
        return gain, n.bias.detach() - n.running_mean * gain


class NoNorm(FloatNorm):
    """Everything as it is; the quantized twin gives each channel a gain and a shift."""

    measures = False

    def __init__(self, dim: int, epsilon: float = EPSILON) -> None:
        """`dim` is that of the gain of one and the shift of zero."""
        nn.Module.__init__(self)
        self.dim, self.epsilon = dim, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return x

    def folded(self) -> tuple[Tensor, Tensor]:
        """One and zero."""
        return torch.ones(self.dim), torch.zeros(self.dim)


NORMS: Mapping[Norm, type[FloatNorm]] = {
    "layer": LayerNorm,
    "rms": RMSNorm,
    "batch": BatchNorm,
    "none": NoNorm,
}


def build_norm(kind: Norm, dim: int, epsilon: float | None = None) -> FloatNorm:
    """The norm named `kind` over `dim` channels."""
    return NORMS[kind](dim, EPSILON if epsilon is None else epsilon)
