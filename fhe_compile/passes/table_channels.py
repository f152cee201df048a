"""A table, what it reads and sums of samples in; of each channel the entries, weighted, out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.program.nodes import IntArray, Table
from torusformer.fhe_compile.program.ranges import Interval

UNSEEN = 1e-3  # how much of the weight all entries share, seen or not


class TableChannels:
    """Elements of a table with equal offsets, which read the same `entries`, from `lo` to `hi`.

    `which` (x's shape) is an element's channel. The `weights` of a channel's entries sum up to 1:
    even ones, or as often as sums were `seen` (N, *shape) there.
    """

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

    def __len__(self) -> int:
        return len(self.offsets)

    def _weights(self, channel: int, seen: IntArray | None) -> NDArray[np.float64]:
        size = len(self.entries[channel])
        even = np.full(size, 1 / size)
        if seen is None:
            return even
        sums = seen[:, self.which == channel].ravel() - self.lo[channel]
        often = np.bincount(sums.clip(0, size - 1), minlength=size) / max(1, sums.size)
        return (1 - UNSEEN) * often + UNSEEN * even

    def ends(self, channel: int) -> tuple[IntArray, IntArray]:
        """Proved least and largest of each of its elements."""
        if len(self) == self.x.lo.size:
            return self.lo[channel], self.hi[channel]
        mine = self.which == channel
        return self.x.lo[mine], self.x.hi[mine]


def extended(table: Table, was: Interval, x: Interval) -> Table:
    """The table for x, which reaches further than it `was`: it goes on with its last entries."""
    if (x.lo >= was.lo).all() and (x.hi <= was.hi).all():
        return table
    before = TableChannels(table, was, None)
    tables, firsts = list[IntArray](), list[int]()
    for channel, entries in enumerate(before.entries):
        mine = before.which == channel
        first, last = int(x.lo[mine].min()), int(x.hi[mine].max())
        lo = int(before.lo[channel])
        tables.append(entries[np.clip(np.arange(first, last + 1) - lo, 0, len(entries) - 1)])
        firsts.append(first)
    values, offsets = laid_out(tables, firsts)
    return replace(table, offset=compact(offsets[before.which]), values=values)


def laid_out(tables: list[IntArray], firsts: list[int]) -> tuple[IntArray, IntArray]:
    """Tables laid end to end, equal ones once, and each one's offset; its first index is given."""
    starts, kept, length = dict[bytes, int](), list[IntArray](), 0
    offsets = np.zeros(len(tables), np.int64)
    for i, (entries, first) in enumerate(zip(tables, firsts, strict=True)):
        key = entries.tobytes()
        if key not in starts:
            starts[key] = length
            kept.append(entries)
            length += len(entries)
        offsets[i] = starts[key] - first
    return np.concatenate(kept), offsets


def compact(array: IntArray) -> IntArray:
    """The smallest array that broadcasts to it."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis=axis)
        if (array == first).all():
            array = first
    return array.reshape(()) if array.size == 1 else array


def columns_of(array: IntArray, some: NDArray[Any], columns: int) -> IntArray:
    """Of an array that broadcasts over so many columns (the last axis), some: indices or a mask."""
    return array[..., some] if array.ndim and array.shape[-1] == columns > 1 else array
