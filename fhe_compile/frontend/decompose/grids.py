"""Numbers that a tensor took on samples in, a quantizer's grid that loses little of them out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.symbols import FloatArray

_CLIPPING = np.linspace(1.0, 0.4, 13)  # shares of the largest number that a grid may end at
_MOST_NUMBERS = 50_000  # that a search looks at


@dataclass(frozen=True)
class Grid:
    """Whole multiples of `scale`: `bits` of them, zero included, of either sign if `signed`."""

    scale: float
    bits: int
    signed: bool

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest multiple."""
        if self.signed:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    def nearest(self, x: FloatArray) -> FloatArray:
        """The numbers on the grid."""
        return np.clip(np.rint(x / self.scale), *self.ends) * self.scale


def numbers(x: FloatArray, what: str) -> FloatArray:
    """Of the samples, flat and not too many; a LoweringError where they are not finite."""
    flat = np.asarray(x, np.float64).ravel()
    if not np.isfinite(flat).all():
        raise LoweringError(f"{what} is not finite on the samples; mend the model or the samples")
    return flat[:: -(-flat.size // _MOST_NUMBERS)]


def best_grid(x: FloatArray, bits: int, what: str) -> Grid:
    """The grid of `bits` bits with the least squared error on these numbers."""
    flat = numbers(x, what)
    signed = bool(flat.min() < 0)
    top = float(np.abs(flat).max()) or 1.0
    steps = 2 ** (bits - 1) - 0.5 if signed else 2**bits - 1
    grids = [Grid(top * share / steps, bits, signed) for share in _CLIPPING]
    return min(grids, key=lambda grid: float(np.square(grid.nearest(flat) - flat).sum()))


def grid_with(x: FloatArray, scale: float, what: str) -> Grid:
    """The narrowest grid of this scale that holds these numbers."""
    flat = numbers(x, what)
    lo, hi = (int(np.rint(end / scale)) for end in (flat.min(), flat.max()))
    if lo < 0:
        return Grid(scale, 1 + max(hi.bit_length(), (-lo - 1).bit_length(), 1), True)
    return Grid(scale, max(1, hi.bit_length()), False)
