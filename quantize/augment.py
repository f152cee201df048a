"""Random small moves of images, on tokens: a batch in, a slightly different batch out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Augment:
    """Shifts, turns and stretches each image a little; leaves other data alone."""

    def __init__(
        self,
        patch: tuple[int, int] | None,
        input_shape: tuple[int, int],
        strength: float,
        generator: torch.Generator,
    ) -> None:
        """`strength` 1 is up to one pixel, ten degrees and a tenth in size, uniformly drawn."""
        self.patch, self.strength, self.generator = patch, strength, generator
        side = math.isqrt(input_shape[0] * input_shape[1])
        self.side = side if side * side == input_shape[0] * input_shape[1] else 0

    def _uniform(self, n: int, width: float) -> Tensor:
        return (torch.rand(n, generator=self.generator) * 2 - 1) * width * self.strength

    def __call__(self, x: Tensor) -> Tensor:
        """(B, tokens, features) to the same shape."""
        if self.patch is None or not self.side or self.strength == 0:
            return x
        (r, c), side, n = self.patch, self.side, len(x)
        blocks = x.reshape(n, side // r, side // c, r, c)
        images = blocks.transpose(2, 3).reshape(n, 1, side, side)
        angle = self._uniform(n, math.radians(10))
        size = 1 + self._uniform(n, 0.1)
        shift_x, shift_y = self._uniform(n, 2 / side), self._uniform(n, 2 / side)
        cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
        theta = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).reshape(n, 2, 3)
        grid = nn.functional.affine_grid(theta, [n, 1, side, side], align_corners=False)
        moved = nn.functional.grid_sample(images, grid, align_corners=False)
        blocks = moved.reshape(n, side // r, r, side // c, c).transpose(2, 3)
        return blocks.reshape(x.shape)
