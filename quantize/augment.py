"""Random small moves of images, on tokens: a batch in, a slightly different batch out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torusformer import InputError


class Augment:
    """Shifts, turns and stretches each image a little."""

    def __init__(
        self,
        patch: tuple[int, int] | None,
        input_shape: tuple[int, ...],
        strength: float,
        generator: torch.Generator,
    ) -> None:
        """`strength` 1 is up to one pixel, ten degrees and a tenth in size, uniformly drawn."""
        self.strength, self.generator = strength, generator
        self.side = math.isqrt(math.prod(input_shape))
        self.patch = patch or (1, 1)
        if strength and (patch is None or self.side**2 != math.prod(input_shape)):
            raise InputError(
                f"augment is {strength}, which moves square images, and samples are {input_shape}"
                f"{'' if patch else ' without a patch'}; set augment to 0"
            )

    def _uniform(self, n: int, width: float) -> Tensor:
        return (torch.rand(n, generator=self.generator) * 2 - 1) * width * self.strength

    def __call__(self, x: Tensor) -> Tensor:
        """(B, tokens, features) to the same shape."""
        if self.strength == 0:
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
