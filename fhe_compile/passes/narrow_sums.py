"""Round sums, or let them wrap, before the tables that read them, so that these read fewer bits.

Rounded,

    y = table(x)   becomes   h = floor((x + shift) / 2^k),   y = coarse(h)

with coarse(h) what the table says in the middle of the 2^k integers that become h: rounding to the
nearest, as Concrete's `round_bit_pattern`, where shift is 2^(k-1). A shift is a clear addition, so
each channel has its own: the one by which the fewest entries change, counted as often as sums were
`seen` there. Where a quantizer's steps are 2^k apart, that is none. A table that wraps instead
takes no bootstrap more (`wrap_sums`).

Either is another function, and that is what the program says from then on: every later stage
computes it exactly.

Worked example: values [0, 0, 0, 1, 1, 1, 1, 2] of x in [0, 7] with k = 2 and shift 1: 0 to 2 become
h = 0, 3 to 6 become 1, and 7 becomes 2; coarse is [0, 1, 2], and no entry has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from torusformer.fhe_compile.passes.table_channels import TableChannels, compact, extended, laid_out
from torusformer.fhe_compile.passes.wrap_sums import wrapped
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import AddConst, IntArray, Node, Program, Round, Table
from torusformer.fhe_compile.program.ranges import MAX_NUMBERS, Interval

MOST_SHIFTS = 64  # that are tried


class Narrowing(NamedTuple):
    """How many bits a table may read, and how it comes to that.

    One that is "wrapped" may be rounded by `lsbs` bits before; a "rounded" one is as far as needed.
    A `tight` one keeps the range of what it gives where it wraps.
    """

    bits: int
    how: Literal["rounded", "wrapped"] = "rounded"
    lsbs: int = 0
    tight: bool = False


def widths_read(program: Program) -> dict[str, int]:
    """Bits that each table reads, by its name."""
    return {
        node.name: bits_read(node.values, node.offset, program.ranges[node.inputs[0]])
        for node in program.nodes
        if isinstance(node, Table)
    }


Found = dict[tuple[object, ...], tuple[Node, ...]]


def narrow_sums(
    program: Program,
    to: Mapping[str, Narrowing],
    seen: Mapping[str, IntArray] | None = None,
    found: Found | None = None,
) -> Program:
    """The program in which each table named in `to` reads at most so many bits.

    A table that reads no more stays as it is. `seen` are sums of samples by name, (N, *shape).
    A code may reach one step further where its table wraps; what reads it is extended. `found` are
    tables that were narrowed before, and is added to.
    """
    found = {} if found is None else found
    ranges = {port.name: Interval.of(port) for port in program.inputs}
    nodes = list[Node]()
    for node in program.nodes:
        made: tuple[Node, ...] = (node,)
        if isinstance(node, Table):
            source = node.inputs[0]
            x, sums, most = ranges[source], (seen or {}).get(source), to.get(node.name)
            key = (node.name, most, x.lo.tobytes(), x.hi.tobytes())
            if key not in found:
                table = extended(node, program.ranges[source], x)
                found[key] = (table,) if most is None else narrowed_table(table, x, most, sums)
            made = found[key]
        for each in made:
            ranges[each.name] = each.reach([ranges[name] for name in each.inputs], MAX_NUMBERS)
        nodes += made
    outputs = tuple(
        replace(p, lo=int(ranges[p.name].lo.min()), hi=int(ranges[p.name].hi.max()))
        for p in program.outputs
    )
    return program.replace(outputs=outputs, proved={}).rewritten(nodes)


def narrowed_table(
    table: Table, x: Interval, to: Narrowing, seen: IntArray | None = None
) -> tuple[Node, ...]:
    """What gives about what a table of x does and reads at most so many bits; its name is last."""
    bits = to.bits
    if bits_read(table.values, table.offset, x) <= bits:
        return (table,)
    if to.how == "wrapped" and not to.lsbs:
        channels = TableChannels(table, x, seen)
        values, offsets = laid_out(wrapped(channels, bits, tight=to.tight), channels.lo.tolist())
        return (replace(table, offset=compact(offsets[channels.which]), values=values),)
    nodes, rounded, sums = rounded_table(table, x, to, seen)
    if to.how == "rounded":
        return nodes
    *before, coarse = nodes
    assert isinstance(coarse, Table)
    return (*before, *narrowed_table(coarse, rounded, to._replace(lsbs=0), sums))


def rounded_table(
    table: Table, x: Interval, to: Narrowing, seen: IntArray | None
) -> tuple[tuple[Node, ...], Interval, IntArray | None]:
    """A sum rounded and a table of it; what that reads, and what it reads on samples."""
    channels = TableChannels(table, x, seen)
    least = to.lsbs or max(1, x.span_bits - to.bits)
    tried = (least,) if to.lsbs else (least, least + 1)
    most = x.span_bits if to.lsbs else to.bits
    ways = [way for k in tried if (way := _way(channels, k, most)) is not None]
    best = min(ways, key=lambda way: (way.changed, way.lsbs))
    name, layer = table.name, table.layer
    values, offset = _coarse(channels, best)
    shift, k = best.shifts[channels.which], best.lsbs
    nodes = (
        AddConst(f"{name}.shifted", layer, table.inputs, compact(shift)),
        Round(f"{name}.rounded", layer, (f"{name}.shifted",), k),
        replace(table, inputs=(f"{name}.rounded",), offset=compact(offset), values=values),
    )
    reach = Interval((x.lo + shift) >> k, (x.hi + shift) >> k)
    return nodes, reach, None if seen is None else (seen + shift) >> k


@dataclass(frozen=True, eq=False)
class _Way:
    """How a table is rounded: a shift a channel, and how many entries change, weighted."""

    lsbs: int
    shifts: IntArray
    changed: float


def _way(channels: TableChannels, lsbs: int, bits: int) -> _Way | None:
    """The best shifts with which rounding by `lsbs` leaves `bits`; None if there are none."""
    size = 1 << lsbs
    tried = range(0, size, max(1, size // MOST_SHIFTS))
    shifts, changed = np.zeros(len(channels), np.int64), 0.0
    for channel in range(len(channels)):
        aligned = int(-channels.lo[channel] % size)
        fitting = [s for s in (*tried, aligned) if _fits(channels, channel, s, lsbs, bits)]
        if not fitting:
            return None
        costs = [_changed(channels, channel, s, lsbs) for s in fitting]
        least = min(costs)
        near = [s for s, cost in zip(fitting, costs, strict=True) if cost <= least + 1e-12]
        shifts[channel] = min(near, key=lambda s: abs(s - size // 2))
        changed += least
    return _Way(lsbs, shifts, changed)


def _fits(channels: TableChannels, channel: int, shift: int, lsbs: int, bits: int) -> bool:
    """Whether none of its elements spans more than 2**bits numbers after the rounding."""
    lo, hi = channels.ends(channel)
    return bool(np.all(((hi + shift) >> lsbs) - ((lo + shift) >> lsbs) < 2**bits))


def _middles(channels: TableChannels, channel: int, shift: int, lsbs: int, h: IntArray) -> IntArray:
    """The place, among a channel's entries, of the middle of what becomes h."""
    lo, hi = channels.lo[channel], channels.hi[channel]
    middle: IntArray = (h << lsbs) - shift + (1 << lsbs >> 1)
    return np.clip(middle, lo, hi) - lo


def _changed(channels: TableChannels, channel: int, shift: int, lsbs: int) -> float:
    entries = channels.entries[channel]
    h = (np.arange(channels.lo[channel], channels.hi[channel] + 1) + shift) >> lsbs
    new = entries[_middles(channels, channel, shift, lsbs, h)]
    return float(np.dot(np.abs(entries - new), channels.weights[channel]))


def _coarse(channels: TableChannels, way: _Way) -> tuple[IntArray, IntArray]:
    """Values of the new table and its offsets (x's shape)."""
    tables, firsts = list[IntArray](), list[int]()
    for channel, shift in enumerate(way.shifts.tolist()):
        first = (int(channels.lo[channel]) + shift) >> way.lsbs
        last = (int(channels.hi[channel]) + shift) >> way.lsbs
        places = _middles(channels, channel, shift, way.lsbs, np.arange(first, last + 1))
        tables.append(channels.entries[channel][places])
        firsts.append(first)
    values, offsets = laid_out(tables, firsts)
    return values, offsets[channels.which]
