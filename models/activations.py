"""Activations of the MLP by name: numbers in, numbers of the same shape out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from torusformer.models.config import Activation


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by a hyperbolic tangent (arXiv 1606.08415), as GPT-2 has it."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """GELU by a logistic function (arXiv 1606.08415)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
}
