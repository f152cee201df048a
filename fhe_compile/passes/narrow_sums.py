"""Round sums before the tables that read them, so that these read fewer bits.

    y = table(x)   becomes   h = floor((x + shift) / 2^k),   y = coarse(h)

with coarse(h) what the table says in the middle of the 2^k integers that become h: rounding to the
nearest, as Concrete's `round_bit_pattern`, where shift is 2^(k-1). The function is another one, and
that is what the program says from then on: every later stage computes it exactly. A shift is a
clear addition, so each channel has its own: the one by which the fewest entries change, counted as
often as sums were `seen` there. Where a quantizer's steps are 2^k apart, that is none.

Worked example: values [0, 0, 0, 1, 1, 1, 1, 2] of x in [0, 7] with k = 2 and shift 1: 0 to 2 become
h = 0, 3 to 6 become 1, and 7 becomes 2; coarse is [0, 1, 2], and no entry has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import AddConst, IntArray, Node, Program, Round, Table
from torusformer.fhe_compile.program.ranges import Interval

MOST_SHIFTS = 64  # that are tried
UNSEEN = 1e-3  # how much of the weight all entries share, seen or not


@dataclass(frozen=True, eq=False)
class _Way:
    """How one table is narrowed: `shift` (x's shape), and how many entries change, weighted."""

    lsbs: int
    shift: IntArray
    changed: float


def widths_read(program: Program) -> dict[str, int]:
    """Bits that each table reads, by its name."""
    return {
        node.name: bits_read(node.values, node.offset, program.ranges[node.inputs[0]])
        for node in program.nodes
        if isinstance(node, Table)
    }


def narrow_sums(
    program: Program, bits: Mapping[str, int], seen: Mapping[str, IntArray] | None = None
) -> Program:
    """The program in which each table named in `bits` reads at most so many.

    A table that reads no more stays as it is. `seen` are sums of samples by name, (N, *shape).
    """
    read, nodes = widths_read(program), list[Node]()
    for node in program.nodes:
        most = bits.get(node.name, 0)
        if isinstance(node, Table) and most and read[node.name] > most:
            source = node.inputs[0]
            nodes += _narrowed(node, program.ranges[source], most, (seen or {}).get(source))
        else:
            nodes.append(node)
    return program.rewritten(nodes)


def _narrowed(table: Table, x: Interval, bits: int, seen: IntArray | None) -> list[Node]:
    channels = _Channels(table, x, seen)
    least = max(1, x.span_bits - bits)
    ways = [way for k in (least, least + 1) if (way := channels.way(k, bits)) is not None]
    best = min(ways, key=lambda way: (way.changed, way.lsbs))
    name, layer = table.name, table.layer
    values, offset = channels.coarse(best)
    return [
        AddConst(f"{name}.shifted", layer, table.inputs, _compact(best.shift)),
        Round(f"{name}.rounded", layer, (f"{name}.shifted",), best.lsbs),
        replace(table, inputs=(f"{name}.rounded",), offset=_compact(offset), values=values),
    ]


class _Channels:
    """Elements of a table with equal offsets, which read the same entries."""

    def __init__(self, table: Table, x: Interval, seen: IntArray | None) -> None:
        self.x = x
        offset = np.broadcast_to(table.offset, x.shape)
        self.offsets, which = np.unique(offset, return_inverse=True)
        self.which: IntArray = which.reshape(x.shape)
        count = len(self.offsets)
        self.lo, self.hi = np.full(count, 2**62), np.full(count, -(2**62))
        np.minimum.at(self.lo, self.which, x.lo)
        np.maximum.at(self.hi, self.which, x.hi)
        self.entries = [
            table.values[lo + o : hi + o + 1]
            for lo, hi, o in zip(self.lo, self.hi, self.offsets, strict=True)
        ]
        self.weights = [self._weights(channel, seen) for channel in range(count)]

    def _weights(self, channel: int, seen: IntArray | None) -> NDArray[np.float64]:
        size = len(self.entries[channel])
        even = np.full(size, 1 / size)
        if seen is None:
            return even
        sums = seen[:, self.which == channel].ravel() - self.lo[channel]
        often = np.bincount(sums.clip(0, size - 1), minlength=size) / max(1, sums.size)
        return (1 - UNSEEN) * often + UNSEEN * even

    def way(self, lsbs: int, bits: int) -> _Way | None:
        """The best shifts with which rounding by `lsbs` leaves `bits`; None if there are none."""
        size = 1 << lsbs
        tried = np.arange(0, size, max(1, size // MOST_SHIFTS))
        shifts = np.zeros(len(self.offsets), np.int64)
        changed = 0.0
        for channel in range(len(self.offsets)):
            fitting = [int(s) for s in tried if self._fits(channel, int(s), lsbs, bits)]
            if not fitting:
                aligned = int(-self.lo[channel] % size)
                if not self._fits(channel, aligned, lsbs, bits):
                    return None
                fitting = [aligned]
            costs = [self._changed(channel, s, lsbs) for s in fitting]
            # Of equally good ones the nearest to rounding to the nearest.
            least = min(costs)
            near = [s for s, c in zip(fitting, costs, strict=True) if c <= least + 1e-12]
            shifts[channel] = min(near, key=lambda s: abs(s - size // 2))
            changed += least
        return _Way(lsbs, shifts[self.which], changed)

    def _fits(self, channel: int, shift: int, lsbs: int, bits: int) -> bool:
        """Whether no element of a channel spans more than 2**bits numbers after the rounding."""
        if len(self.offsets) == self.x.lo.size:
            lo, hi = self.lo[channel], self.hi[channel]
        else:
            mine = self.which == channel
            lo, hi = self.x.lo[mine], self.x.hi[mine]
        return bool(np.all(((hi + shift) >> lsbs) - ((lo + shift) >> lsbs) < 2**bits))

    def _middles(self, channel: int, shift: int, lsbs: int, h: IntArray) -> IntArray:
        """The place, among a channel's entries, of the middle of what becomes h."""
        lo, hi = self.lo[channel], self.hi[channel]
        middle: IntArray = (h << lsbs) - shift + (1 << lsbs >> 1)
        return np.clip(middle, lo, hi) - lo

    def _changed(self, channel: int, shift: int, lsbs: int) -> float:
        entries = self.entries[channel]
        h = (np.arange(self.lo[channel], self.hi[channel] + 1) + shift) >> lsbs
        new = entries[self._middles(channel, shift, lsbs, h)]
        return float(np.dot(np.abs(entries - new), self.weights[channel]))

    def coarse(self, way: _Way) -> tuple[IntArray, IntArray]:
        """Values of the new table and its offsets (x's shape)."""
        starts, tables, length = dict[bytes, int](), list[IntArray](), 0
        offsets = np.zeros(len(self.offsets), np.int64)
        for channel in range(len(self.offsets)):
            shift = int(way.shift[self.which == channel][0])
            first, last = ((int(end[channel]) + shift) >> way.lsbs for end in (self.lo, self.hi))
            h = np.arange(first, last + 1)
            entries = self.entries[channel][self._middles(channel, shift, way.lsbs, h)]
            key = entries.tobytes()
            if key not in starts:
                starts[key] = length
                tables.append(entries)
                length += len(entries)
            offsets[channel] = starts[key] - first
        return np.concatenate(tables), offsets[self.which]


def _compact(array: IntArray) -> IntArray:
    """The smallest array that broadcasts to it."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis=axis)
        if (array == first).all():
            array = first
    return array.reshape(()) if array.size == 1 else array
