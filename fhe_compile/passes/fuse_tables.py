"""A table of a table is one table, also where clear factors and offsets lie in between.

1. Only one reader: the inner table goes.
2. Several readers, all of them tables: the inner table goes too.

Both where the tables that are left cost no more than those that were, by the price list: a table
that reads few bits of a wide sum, since it is antiperiodic, is worth one that reads its result.

Worked example: values [0, 1, 1] read by values [5, 7] is values [5, 7, 7].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.reindex import reindexed
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.antiperiod import bits_read
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
        if not found:
            continue
        made = [_composed(inner, reader, nodes, ranges) for reader in found]
        before = [inner, *(nodes[reader.table.name] for reader in found)]
        if _price(made, ranges, options.prices) > _price(before, ranges, options.prices):
            continue
        for reader, table in zip(found, made, strict=True):
            for between in reader.between:
                nodes.pop(between.name, None)
            nodes[table.name] = table
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


def _price(tables: Sequence[Node], ranges: Mapping[str, Interval], prices: PriceList) -> float:
    """Milliseconds of one element of each."""
    reads = [
        bits_read(table.values, table.offset, ranges[table.inputs[0]])
        for table in tables
        if isinstance(table, Table)
    ]
    return sum(map(prices.table, reads))


def _composed(
    inner: Table, reader: _Reader, nodes: Mapping[str, Node], ranges: Mapping[str, Interval]
) -> Table:
    outer = nodes[reader.table.name]
    assert isinstance(outer, Table)
    return _compose(inner, reader.between, outer, ranges[outer.name].shape)


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
