"""A table of a table is one table, also where clear factors and offsets lie in between.

1. Only one reader: the inner table goes.
2. Several readers, all of them tables: the inner table goes too where they may read what it reads
   for no more than they save, by the price list.

Worked example: values [0, 1, 1] read by values [5, 7] is values [5, 7, 7].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.reindex import reindexed
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.nodes import AddConst, Node, Program, Scale, Table
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class _Reader:
    """A table and the element-wise nodes between it and the table before, first one first."""

    between: tuple[AddConst | Scale, ...]
    table: Table


def fuse_tables(program: Program, options: PassOptions) -> Program:
    """The same program without tables whose only readers are tables."""
    readers, ranges = program.consumers(), program.ranges
    outputs = {port.name for port in program.outputs}
    nodes = {node.name: node for node in program.nodes}
    for node in program.nodes:
        inner = nodes.get(node.name)
        if not isinstance(inner, Table) or inner.name in outputs:
            continue
        found = _readers(inner.name, readers, outputs)
        if not found or not _pays(inner, found, ranges, options.prices):
            continue
        for reader in found:
            for between in reader.between:
                nodes.pop(between.name, None)
            outer = nodes[reader.table.name]
            assert isinstance(outer, Table)
            shape = ranges[outer.name].shape
            nodes[outer.name] = _compose(inner, reader.between, outer, shape)
        del nodes[inner.name]
    return program.rewritten(nodes.values())


def _readers(
    name: str, readers: Mapping[str, Sequence[Node]], outputs: set[str]
) -> list[_Reader] | None:
    """The tables that read a value; None if anything else does."""
    found = []
    for node in readers.get(name, []):
        between: list[AddConst | Scale] = []
        while isinstance(node, AddConst | Scale) and node.name not in outputs:
            between.append(node)
            after = readers.get(node.name, [])
            if len(after) != 1:
                return None
            node = after[0]
        if not isinstance(node, Table):
            return None
        found.append(_Reader(tuple(between), node))
    return found


def _pays(
    inner: Table, found: list[_Reader], ranges: Mapping[str, Interval], prices: PriceList
) -> bool:
    if len(found) == 1:
        return True
    wide = prices.table(ranges[inner.inputs[0]].span_bits)
    ends = [(r.between[-1] if r.between else inner).name for r in found]
    now = wide + sum(prices.table(ranges[end].span_bits) for end in ends)
    return len(found) * wide <= now


def _compose(
    inner: Table, between: Sequence[AddConst | Scale], outer: Table, shape: tuple[int, ...]
) -> Table:
    gain, shift = np.array(1), np.array(0)
    for node in between:
        if isinstance(node, Scale):
            gain, shift = gain * node.factor, shift * node.factor
        else:
            shift = shift + node.value
    values, starts = reindexed(outer.values, inner.values, gain, shift + outer.offset)
    offset = np.asarray(inner.offset + starts)
    assert np.broadcast_shapes(offset.shape, shape) == shape
    return Table(outer.name, outer.layer, inner.inputs, offset, values)
