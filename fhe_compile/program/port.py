"""An input or output of a program: name, shape, bounds, and what its integers mean."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Port:
    """An input or output of a program: real = scale * (integer - zero_point).

    `lo` and `hi` bound every integer; `scale` and `zero_point` are scalars or broadcast over
    `shape` (a classifier with a bias per class has one zero point per class).

    A `one_hot` port holds bits, along the last axis exactly one of them set: an index, written so
    that looking it up in a clear table is linear.

    A port with a public `table` (P, V, D) holds, at each of T positions, the row of a token: of
    shape (1, T, D), P being 1 or T.
    """

    name: str
    shape: tuple[int, ...]
    lo: int
    hi: int
    scale: NDArray[np.float64] = field(default_factory=lambda: np.array(1.0))
    zero_point: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    one_hot: bool = False
    table: IntArray | None = None

    @property
    def vocabulary(self) -> int | None:
        """How many tokens there are, if the port takes tokens: whole numbers below it."""
        if self.table is not None:
            return self.table.shape[1]
        return self.shape[-1] if self.one_hot else None

    @property
    def bounds(self) -> tuple[IntArray, IntArray]:
        """The least and the largest that each element can be."""
        if self.table is None:
            lo, hi = (np.full(self.shape, end, np.int64) for end in (self.lo, self.hi))
            return lo, hi
        low, high = self.table.min(axis=1), self.table.max(axis=1)
        return np.broadcast_to(low, self.shape), np.broadcast_to(high, self.shape)

    @property
    def real_shape(self) -> tuple[int, ...]:
        """Of the real numbers, or of the tokens.

        Where zero points differ along the last axis, that axis is a code: each number is several
        integers, one for each zero point: bits of a unary code, say.
        """
        if self.vocabulary is not None:
            return self.shape[:-1]
        coded = self.zero_point.ndim == 1 and len(self.shape) > 1 and self.signed is False
        return self.shape[:-1] if coded and self.hi == 1 else self.shape

    @property
    def signed(self) -> bool:
        """Whether a negative integer can occur."""
        return self.lo < 0

    @property
    def bit_width(self) -> int:
        """Bits of the integer in two's complement if signed, else unsigned."""
        if self.signed:
            return max(int(self.hi).bit_length(), int(-self.lo - 1).bit_length()) + 1
        return max(1, int(self.hi).bit_length())
