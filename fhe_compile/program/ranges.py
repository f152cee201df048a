"""The proved range of a value, element by element.

Interval arithmetic: exact for everything linear in independent inputs, for tables and for rounding;
for a product it takes the four corners. Nothing is sampled, so a value outside its range cannot
occur for any input inside the input ports' bounds. The rule of each operator is its `bound`, and
`Program.ranges` has the intervals of all values. Every integer is below 2^62 in magnitude, on the
way to it too, so int64 holds it, and twice it: `Node.reach` and `Interval.of` refuse the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from torusformer import BitWidthError
from torusformer.fhe_compile.program.port import IntArray, Port

LIMIT_BITS = 62
MAX_INDEX_BITS = 20  # of a table before passes narrow it; Concrete reads 16
MAX_NUMBERS = 2**24  # of all values of a program together, while it is rewritten
MAX_GIVEN = 2**22  # of a program or graph from outside; a bootstrap each takes half a day


def refuse_large(place: str, largest: float) -> None:
    """A BitWidthError where int64 might not hold what is computed of this magnitude."""
    if largest >= 2**LIMIT_BITS:
        bits = math.log2(largest)
        raise BitWidthError(
            f"{place} reaches 2^{bits:.4g}, and integers of a program stay below 2^{LIMIT_BITS}; "
            "lower act_bit_width or weight_bit_width"
        )


def whole_numbers(layer: str, lo: int, hi: int) -> IntArray:
    """lo to hi, each an entry of a table; a BitWidthError where no table is as long."""
    bits = int(hi - lo).bit_length()
    if bits > MAX_INDEX_BITS:
        raise BitWidthError(
            f"{layer}: a table's input needs {bits} bits, the limit is {MAX_INDEX_BITS}; "
            "lower act_bit_width or weight_bit_width, or train with a smaller accumulator_bit_width"
        )
    return np.arange(lo, hi + 1)


def refuse_many(place: str, count: int, room: int) -> None:
    """A BitWidthError where a value has more numbers than there is room for."""
    if count > room:
        raise BitWidthError(
            f"{place} has {count:,} numbers, there is room for {room:,} more; "
            "lower the number of tokens or features"
        )


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
        refuse_large(f"input {port.name!r}", max(abs(port.lo), abs(port.hi)))
        lo, hi = port.bounds
        return cls(lo, hi, port.one_hot)

    def within(self, other: Interval) -> Interval:
        """What both allow."""
        one_hot = self.one_hot or other.one_hot
        return Interval(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi), one_hot)

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(
            (float(abs(end.astype(np.float64)).max(initial=0))) for end in (self.lo, self.hi)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.lo.shape

    @property
    def span_bits(self) -> int:
        """Bits of the widest element after subtracting its own minimum: what a table pays for."""
        return max(1, int((self.hi - self.lo).max()).bit_length())
