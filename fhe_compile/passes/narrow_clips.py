"""Read a wide number by two narrow tables where only a window of it matters.

A table that is constant below a window and constant above it (a clip) need not see how far out a
number lies. With blocks of 2^k integers, of which the window takes m,

    h = floor(x / 2^k)             which block: k bootstraps of one bit
    l = x - 2^k * h                where in it, for nothing
    r = l + 2^k * clip(h, -1, m)   every block below the window is the one just below it, and every
                                   block above the one just above
    y = table(r)                   (m + 2) * 2^k entries

The table of blocks and the table of r have fewer bits than x has, and a bootstrap's price is steep
in its bits: ten bits become five and six. Where the table says the same of every 2^d integers in a
row, it reads floor(r / 2^d).

Where that is cheaper, low bits are cleared by tables in a ring (`digits`), the lowest d bits once
for h and y.

Worked example: clip(x, 0, 3) of x = -9 with k = 1: h = -5, l = 1, r = -1, and the table says 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.passes.digits import WIDEST, Digits, digits_of
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    IntArray,
    Node,
    Program,
    Round,
    Scale,
    Sub,
    Table,
)
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers


def narrow_clips(program: Program, options: PassOptions) -> Program:
    """The program with such tables split where that is cheaper; each r has a proved range."""
    ranges, proved = program.ranges, dict[str, Interval]()
    made = {node.name: node for node in program.nodes}
    nodes: list[Node] = []
    for node in program.nodes:
        if (
            not isinstance(node, Table)
            or isinstance(made.get(node.inputs[0]), Round)
            or f"{node.name}.near" in made  # it is split already
        ):
            nodes.append(node)
            continue
        clip = _cheapest(node, ranges[node.inputs[0]], options.prices)
        if clip is None:
            nodes.append(node)
            continue
        made_of_it, ends = clip.build(options.prices)
        nodes += made_of_it
        proved |= ends
    return program.rewritten(nodes, proved)


@dataclass(frozen=True, eq=False)
class _Clip:
    """One way to split one table: `index` bounds x + offset, `first` and `last` the window."""

    table: Table
    index: Interval
    first: int
    last: int
    lsbs: int  # k
    coarse: int  # d

    @property
    def blocks(self) -> int:
        """That the window takes."""
        return -(-(self.last - self.first + 1) // 2**self.lsbs)

    @property
    def block(self) -> Interval:
        """Of h, for every element; the window begins with block 0."""
        lo, hi = ((end - self.first) >> self.lsbs for end in (self.index.lo, self.index.hi))
        return Interval(lo, hi)

    @property
    def within(self) -> Interval:
        """Of l."""
        zeros = np.zeros_like(self.index.lo)
        return Interval(zeros, zeros + 2**self.lsbs - 1)

    @property
    def reach(self) -> Interval:
        """Of r, for every element: where x is, or in the blocks beside the window."""
        size = 2**self.lsbs
        lo, hi = self.index.lo - self.first, self.index.hi - self.first
        from_below, from_above = lo < -size, hi >= (self.blocks + 1) * size
        low = np.where(from_below, -size, lo)
        high = np.where(from_above, (self.blocks + 1) * size - 1, hi)
        return Interval(
            np.where(from_above, np.minimum(low, self.blocks * size), low),
            np.where(from_below, np.maximum(high, -1), high),
        )

    @property
    def level(self) -> Interval:
        """Of floor(r / 2^d)."""
        return Interval(self.reach.lo >> self.coarse, self.reach.hi >> self.coarse)

    def milliseconds(self, prices: PriceList) -> float:
        """Of one element."""
        bits = self.index.span_bits
        narrow = prices.table(self.block.span_bits) + prices.table(self.level.span_bits)
        return prices.rounding(bits, self.lsbs) + prices.rounding(bits, self.coarse) + narrow

    @property
    def is_open(self) -> bool:
        """Whether it may be chosen."""
        return True

    def build(self, _: PriceList) -> tuple[list[Node], dict[str, Interval]]:
        """In order; the last one has the name of the table. Ranges that are proved by name."""
        name, layer, size = self.table.name, self.table.layer, np.array(2**self.lsbs)
        read = f"{name}.near"
        made: list[Node] = [
            self._centred(),
            Round(f"{name}.block", layer, (f"{name}.centred",), self.lsbs),
            Scale(f"{name}.start", layer, (f"{name}.block",), size),
            Sub(f"{name}.within", layer, (f"{name}.centred", f"{name}.start")),
            self._clipped(1),
            Scale(f"{name}.moved", layer, (f"{name}.clipped",), size),
            Add(read, layer, (f"{name}.within", f"{name}.moved")),
        ]
        if self.coarse:
            made.append(Round(f"{name}.coarse", layer, (read,), self.coarse))
            read = f"{name}.coarse"
        proved = {f"{name}.within": self.within, f"{name}.near": self.reach}
        return [*made, self._read(read)], proved

    def _centred(self) -> Node:
        """x, counted from the window's first number."""
        offset = np.broadcast_to(self.table.offset - self.first, self.index.shape)
        name = f"{self.table.name}.centred"
        return AddConst(name, self.table.layer, self.table.inputs, _smallest(offset))

    def _clipped(self, factor: int) -> Node:
        """The table of blocks, times a factor."""
        name, layer, lowest = self.table.name, self.table.layer, int(self.block.lo.min())
        h = whole_numbers(layer, lowest, int(self.block.hi.max()))
        values = np.clip(h, -1, self.blocks) * factor
        return Table(f"{name}.clipped", layer, (f"{name}.block",), np.array(-lowest), values)

    def _read(self, source: str) -> Node:
        """The table itself, of floor(r / 2^d)."""
        table, start = self.table, int(self.level.lo.min())
        levels = whole_numbers(table.layer, start, int(self.level.hi.max()))
        index = (levels << self.coarse) + self.first
        values = table.values[np.clip(index, 0, len(table.values) - 1)]
        return Table(table.name, table.layer, (source,), np.array(-start), values)


@dataclass(frozen=True, eq=False)
class _ByDigits(_Clip):
    """The same, with low bits cleared by tables instead of roundings, once for block and level."""

    @property
    def is_open(self) -> bool:
        """Wider tables that write where x is would make all others of their width precise."""
        return max(self.block.span_bits, self.level.span_bits) <= WIDEST

    def milliseconds(self, prices: PriceList) -> float:
        """Of one element."""
        digits = (*digits_of(self.coarse, prices), *digits_of(self.lsbs - self.coarse, prices))
        narrow = prices.table(self.block.span_bits) + prices.table(self.level.span_bits)
        return sum(2 * prices.table(bits) for bits in digits) + narrow

    def build(self, prices: PriceList) -> tuple[list[Node], dict[str, Interval]]:
        """In order; l and r are multiples of 2^d."""
        name, layer, coarse = self.table.name, self.table.layer, self.coarse
        x = Interval(self.index.lo - self.first, self.index.hi - self.first)
        digits = Digits(layer, f"{name}.centred", x)
        for bits in digits_of(coarse, prices):
            digits.clear(f"{name}.from{digits.cleared + bits}", bits)
        fine = digits.source
        for bits in digits_of(self.lsbs - coarse, prices):
            digits.clear(f"{name}.from{digits.cleared + bits}", bits)
        digits.read(f"{name}.block")
        read = f"{name}.near"
        made: list[Node] = [
            self._centred(),
            *digits.nodes,
            Sub(f"{name}.within", layer, (fine, digits.source)),
            self._clipped(2**self.lsbs),
            Add(read, layer, (f"{name}.within", f"{name}.clipped")),
        ]
        within, near = (_multiples(ends, coarse) for ends in (self.within, self.reach))
        proved = {**digits.proved, f"{name}.within": within, read: near}
        if coarse:
            made.append(Round(f"{name}.coarse", layer, (read,), coarse, zeros=True))
            read = f"{name}.coarse"
        return [*made, self._read(read)], proved


def _multiples(x: Interval, bits: int) -> Interval:
    """Without so many low bits."""
    return Interval(x.lo >> bits << bits, x.hi >> bits << bits)


def _cheapest(table: Table, x: Interval, prices: PriceList) -> _Clip | None:
    """The best split of a table, if any is cheaper than the table itself."""
    index = Interval(x.lo + table.offset, x.hi + table.offset)
    lo, hi = int(index.lo.min()), int(index.hi.max())
    values = table.values[lo : hi + 1]
    if index.span_bits < 4 or hi - lo >= 2 ** (index.span_bits + 1):  # a table a channel
        return None
    below = np.flatnonzero(values != values[0])
    if not below.size:
        return None
    first, last = lo + int(below[0]), lo + int(np.flatnonzero(values != values[-1])[-1])
    if first > last:  # a step: one entry is enough of a window
        first, last = last, last
    coarse = _coarseness(values[first - lo : last - lo + 1])
    ways: list[_Clip] = [
        way
        for kind in (_Clip, _ByDigits)
        for lsbs in range(1, index.span_bits - 1)
        for d in range(min(coarse, lsbs) + 1)
        if (way := kind(table, index, first, last, lsbs, d)).is_open
    ]
    best = min(ways, key=lambda way: way.milliseconds(prices))
    as_it_is = prices.table(bits_read(table.values, table.offset, x))
    return best if best.milliseconds(prices) < as_it_is else None


def _coarseness(window: IntArray) -> int:
    """The largest d such that the entries are 2^d alike, 2^d alike, and so on to the last."""
    d = 0
    while len(window) % 2 ** (d + 1) == 0:
        groups = window.reshape(-1, 2 ** (d + 1))
        if (groups != groups[:, :1]).any():
            break
        d += 1
    return d


def _smallest(offset: IntArray) -> IntArray:
    same = (offset == offset.flat[0]).all()
    return np.array(offset.flat[0]) if same else offset
