"""Clear low bits of a wide number by narrow tables in a ring, in place of a rounding.

A rounding clears one bit a bootstrap, of one bit. Two tables of n bits clear n bits, and what is
left can be read wherever it goes on, by tables that do not see the zeros:

    s = bit n of x       antiperiodic: n bits read it modulo 2^(n + 1), however wide x is
    c = x - 2^n s        bit n is zero, so below it the ring says what x is modulo 2^n
    l = c modulo 2^n     any table of so many numbers is antiperiodic, in a ring of twice as many
    x - l                a multiple of 2^n

Worked example: x = 55 and n = 4: s = 1, c = 39, which is 7 in a ring of 32, l = 7 and x - l = 48.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.nodes import AddConst, IntArray, Node, Round, Sub, Table
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers

WIDEST = 4  # bits of a digit: wider tables cost more than roundings
Entries = Callable[[IntArray], IntArray]


@dataclass(eq=False)
class Digits:
    """Appends what clears the low bits of one value, and proves the ranges of what is made.

    `source` is the value, of range x; its `cleared` low bits are zero.
    """

    layer: str
    source: str
    x: Interval
    cleared: int = 0
    nodes: list[Node] = field(default_factory=list)
    proved: dict[str, Interval] = field(default_factory=dict)

    def clear(self, name: str, bits: int) -> None:
        """Clear the next so many bits."""
        layer, step, size = self.layer, 1 << self.cleared, 1 << self.cleared + bits
        half = np.array(size // 2)
        sign, cut, low = f"{name}.sign", f"{name}.cut", f"{name}.low"
        around = Interval(self.x.lo - size, self.x.hi)
        self._table(sign, self.source, self.x, lambda v: ((v >> bits) % 2 * 2 - 1) * half)
        self.nodes += [
            Sub(f"{cut}.half", layer, (self.source, sign)),
            AddConst(cut, layer, (f"{cut}.half",), -half),
        ]
        self._table(
            low, cut, around, lambda v: v % 2**bits * step * np.where((v >> bits) % 2, -1, 1)
        )
        self.nodes.append(Sub(name, layer, (self.source, low)))
        zeros = np.zeros_like(self.x.lo)
        self.proved[low] = Interval(zeros, zeros + (size - step))
        self.source, self.cleared = name, self.cleared + bits
        self.x = Interval(self.x.lo // size * size, self.x.hi // size * size)
        self.proved[name] = self.x

    def read(self, name: str) -> str:
        """The name of the value without its zeros, as a table may read it."""
        if not self.cleared:
            return self.source
        self.nodes.append(Round(name, self.layer, (self.source,), self.cleared, zeros=True))
        return name

    def _table(self, name: str, source: str, x: Interval, entries: Entries) -> None:
        """`entries` of each number without its zeros."""
        lo, hi = int(x.lo.min()) >> self.cleared, int(x.hi.max()) >> self.cleared
        if self.cleared:
            read = f"{name}.read"
            self.nodes.append(Round(read, self.layer, (source,), self.cleared, zeros=True))
            source = read
        values = entries(whole_numbers(self.layer, lo, hi))
        self.nodes.append(Table(name, self.layer, (source,), np.array(-lo), values))


def digits_of(bits: int, prices: PriceList) -> tuple[int, ...]:
    """The cheapest digits, lowest first, that `bits` bits are cleared in."""

    @cache
    def best(left: int) -> tuple[float, tuple[int, ...]]:
        if not left:
            return 0.0, ()
        ways = []
        for first in range(1, min(left, WIDEST) + 1):
            ms, rest = best(left - first)
            ways.append((ms + 2 * prices.table(first), (first, *rest)))
        return min(ways, key=lambda way: (way[0], -way[1][0]))

    return best(bits)[1]
