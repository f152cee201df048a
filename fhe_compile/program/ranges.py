"""The proved range of a value, element by element.

Interval arithmetic: exact for everything linear in independent inputs, for tables and for rounding;
for a product it takes the four corners. Nothing is sampled, so a value outside its range cannot
occur for any input inside the input ports' bounds. The rule of each operator is its `bound`, and
`Program.ranges` has the intervals of all values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.program.port import IntArray, Port


@dataclass(frozen=True, eq=False)
class Interval:
    """Element-wise lo <= value <= hi; both arrays have the value's shape.

    Of `one_hot` bits exactly one along the last axis is set.
    """

    lo: IntArray
    hi: IntArray
    one_hot: bool = False

    @classmethod
    def of(cls, port: Port) -> Interval:
        """Of what comes in through a port."""
        lo, hi = port.bounds
        return cls(lo, hi, port.one_hot)

    def within(self, other: Interval) -> Interval:
        """What both allow."""
        one_hot = self.one_hot or other.one_hot
        return Interval(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi), one_hot)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.lo.shape

    @property
    def span_bits(self) -> int:
        """Bits of the widest element after subtracting its own minimum: what a table pays for."""
        return max(1, int((self.hi - self.lo).max()).bit_length())
