"""Take common factors out of sums, so that the tables that read them are narrower.

1. A channel whose table only gives r, r + g, r + 2g, ... gives 0, 1, 2, ... instead; the factor g
   moves into the weights that read it, the offset r into an `AddConst`.
2. A column of weights with a common factor g loses it; the tables that read the sum take every
   g-th entry.

Signs and zero points need no such care: a table is charged for the distance between the lowest and
the highest number it reads, whatever these are.

Worked example: table values {0, 3} read by weights [2, 4] are {0, 1} and [6, 12], then [1, 2]: a
sum from 0 to 18 in 5 bits becomes one from 0 to 3 in 2 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.reindex import reindexed
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import AddConst, IntArray, Linear, Node, Program, Table
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers


def remove_common_factors(program: Program, _: PassOptions | None = None) -> Program:
    """The same program with narrower sums where weights or table values have common factors."""
    return _divide_columns(_divide_tables(program))


def _divide_tables(program: Program) -> Program:
    readers, ranges = program.consumers(), program.ranges
    outputs = {port.name for port in program.outputs}
    divided: dict[str, tuple[IntArray, IntArray]] = {}  # factor and offset a channel
    nodes: list[Node] = []
    for node in program.nodes:
        if isinstance(node, Table) and node.name not in outputs:
            found = readers.get(node.name, [])
            if found and all(isinstance(reader, Linear) for reader in found):
                x = ranges[node.inputs[0]]
                factor, start, table = _normalized(node, x)
                if (factor > 1).any() and _bits(table, x) <= _bits(node, x):
                    divided[node.name] = factor, start
                    node = table
        elif isinstance(node, Linear) and node.inputs[0] in divided:
            factor, start = divided[node.inputs[0]]
            whole = replace(node, name=f"{node.name}.whole", weight=node.weight * factor[:, None])
            added = start @ node.weight
            nodes += [whole, AddConst(node.name, node.layer, (whole.name,), added)]
            continue
        nodes.append(node)
    return program.forgetting(divided).rewritten(nodes)


def _bits(table: Table, x: Interval) -> int:
    """That it reads: -1 and 1 of a sum that wraps, in place of 0 and 1, fit half the ring."""
    return bits_read(table.values, table.offset, x)


def _normalized(node: Table, x: Interval) -> tuple[IntArray, IntArray, Table]:
    """Factor and offset a channel, and the table without them; a channel each has its own copy."""
    channels = x.shape[-1]
    first = (x.lo + node.offset).reshape(-1, channels)
    last = (x.hi + node.offset).reshape(-1, channels)
    factor, start = np.ones(channels, np.int64), np.zeros(channels, np.int64)
    for c in range(channels):
        spans = zip(first[:, c], last[:, c], strict=True)
        reached = np.unique(np.concatenate([node.values[a : b + 1] for a, b in set(spans)]))
        factor[c] = math.gcd(*np.diff(reached).tolist()) or 1
        start[c] = reached[0]
    copy = np.arange(channels) * len(node.values)
    values = (node.values - start[:, None]) // factor[:, None]
    return factor, start, replace(node, offset=node.offset + copy, values=values.ravel())


def _divide_columns(program: Program) -> Program:
    readers, ranges = program.consumers(), program.ranges
    outputs = {port.name for port in program.outputs}
    nodes = {node.name: node for node in program.nodes}
    divided: list[str] = []
    for node in program.nodes:
        if not isinstance(node, Linear) or node.name in outputs:
            continue
        factor = np.maximum(np.gcd.reduce(node.weight, axis=0), 1)
        paths = _paths(node.name, readers, outputs)
        if paths is None or (factor == 1).all():
            continue
        narrow = replace(node, weight=node.weight // factor)
        nodes[node.name] = narrow
        divided.append(node.name)
        lowest = ranges[node.name].lo // factor
        highest = ranges[node.name].hi // factor
        for added, table in paths:
            for gone in added:
                nodes.pop(gone.name, None)
            shift = sum((a.value for a in added), np.array(0)) + table.offset
            nodes[table.name] = _every(table, node.name, factor, shift, lowest, highest)
    return program.forgetting(divided).rewritten(nodes.values())


def _paths(
    name: str, readers: Mapping[str, Sequence[Node]], outputs: set[str]
) -> list[tuple[list[AddConst], Table]] | None:
    """The tables that read a sum, with the offsets in between; None if anything else does."""
    paths = []
    for node in readers.get(name, []):
        added: list[AddConst] = []
        while isinstance(node, AddConst) and node.name not in outputs:
            added.append(node)
            after = readers.get(node.name, [])
            if len(after) != 1:
                return None
            node = after[0]
        if not isinstance(node, Table):
            return None
        paths.append((added, node))
    return paths or None


def _every(
    table: Table, source: str, factor: IntArray, shift: IntArray, lo: IntArray, hi: IntArray
) -> Table:
    """`table` read at factor * n + shift for n from `lo` to `hi`."""
    n = whole_numbers(table.layer, int(lo.min()), int(hi.max()))
    values, starts = reindexed(table.values, n, factor, shift)
    return Table(table.name, table.layer, (source,), starts - n[0], values)
