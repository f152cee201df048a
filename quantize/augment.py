"""Random small moves of images, on tokens: a batch in, a slightly different batch out.

Images move as a whole, and bend: elastic deformations are those of Simard, Steinkraus and Platt,
"Best Practices for Convolutional Neural Networks" (2003), with a smooth field drawn at few points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torusformer import InputError

NODES = 4  # a side: points at which a bend is drawn, smooth between


class Augment:
    """Shifts, turns, stretches and bends each image a little."""

    def __init__(
        self,
        patch: tuple[int, int] | None,
        input_shape: tuple[int, ...],
        strength: float,
        generator: torch.Generator,
        image: tuple[int, int] | None = None,
        elastic: float = 0.0,
    ) -> None:
        """`strength` 1 is up to one pixel, ten degrees and a tenth in size, uniformly drawn.

        `elastic` is the standard deviation, in pixels, of how far each part moves on its own.
        `image` are rows and columns of pixels; without it images are grey squares.
        """
        self.strength, self.elastic, self.generator = strength, elastic, generator
        numbers = math.prod(input_shape)
        self.height, self.width = image or (math.isqrt(numbers),) * 2
        self.patch = patch or (1, 1)
        self.channels = input_shape[-1] // math.prod(self.patch) if image else 1
        whole = self.height * self.width * self.channels == numbers
        for name, value in (("augment", strength), ("elastic", elastic)):
            if value and (patch is None or not whole):
                raise InputError(
                    f"{name} is {value}, which moves square images, and samples are {input_shape}"
                    f"{'' if patch else ' without a patch'}; set {name} to 0"
                )

    def _uniform(self, n: int, width: float) -> Tensor:
        return (torch.rand(n, generator=self.generator) * 2 - 1) * width * self.strength

    def _bends(self, n: int) -> Tensor:
        """(n, H, W, 2) of how far each pixel's source lies away, in halves of a side."""
        drawn = torch.randn(n, 2, NODES, NODES, generator=self.generator) * self.elastic
        pixels = torch.tensor([2 / self.width, 2 / self.height])
        size = (self.height, self.width)
        smooth = nn.functional.interpolate(drawn, size, mode="bicubic", align_corners=True)
        return smooth.permute(0, 2, 3, 1) * pixels

    def __call__(self, x: Tensor) -> Tensor:
        """(B, tokens, features) to the same shape."""
        if self.strength == 0 and self.elastic == 0:
            return x
        (r, c), n = self.patch, len(x)
        height, width, channels = self.height, self.width, self.channels
        blocks = x.reshape(n, height // r, width // c, r, c, channels)
        images = blocks.permute(0, 5, 1, 3, 2, 4).reshape(n, channels, height, width)
        angle = self._uniform(n, math.radians(10))
        size = 1 + self._uniform(n, 0.1)
        shift_x, shift_y = self._uniform(n, 2 / width), self._uniform(n, 2 / height)
        cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
        # The grid goes from -1 to 1 both ways, so a turn of what is no square stretches it back.
        tall, wide = height / width, width / height
        theta = torch.stack([cos, -sin * tall, shift_x, sin * wide, cos, shift_y], dim=1)
        shape = [n, channels, height, width]
        grid = nn.functional.affine_grid(theta.reshape(n, 2, 3), shape, align_corners=False)
        if self.elastic:
            grid = grid + self._bends(n)
        moved = nn.functional.grid_sample(images, grid, align_corners=False)
        blocks = moved.reshape(n, channels, height // r, r, width // c, c)
        return blocks.permute(0, 2, 4, 3, 5, 1).reshape(x.shape)
