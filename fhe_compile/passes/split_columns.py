"""Tables whose columns (the last axis) need not all be read alike: cut into tables of some columns.

What one table reads is as wide as the widest of its sums. Sums of a layer differ, as weights do: of
64 that span up to 70 numbers, 50 may span less than 64, and a table of six bits costs 2.5 times one
of five. So y = table(x @ A) @ B becomes y = table(x @ A[:, some]) @ B[some] + the same of the
others: no bootstrap more, no product more. Where B is no `Linear`, columns return to their places
by a product with a permutation.

Worked example: sums of 3, 40 and 7 numbers are read at six bits, all three; cut apart, two of them
at three bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.table_channels import columns_of, compact
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Concat,
    IntArray,
    Linear,
    Node,
    Program,
    Round,
    Scale,
    Table,
)
from torusformer.fhe_compile.program.ranges import Interval

FEWEST = 4  # columns of a table that is cut
WIDEST = 7  # bits of tables that get keys of their own: those of wider ones fill gigabytes
SHARE = 0.2  # of a table's time that must be saved
Groups = Mapping[str, Sequence[IntArray]]


def split_columns(program: Program, options: PassOptions | None = None) -> Program:
    """The same program, tables cut by what their columns need where that saves enough."""
    options = options or PassOptions()
    left_alone = {port.name for port in program.outputs}
    left_alone |= {name for name, x in program.ranges.items() if x.one_hot}
    groups = {}
    for node in program.nodes:
        if isinstance(node, Table) and node.name not in left_alone:
            found = _by_width(node, program.ranges[node.inputs[0]], options)
            if len(found) > 1:
                groups[node.name] = found
    return cut(program, groups)


def _by_width(table: Table, x: Interval, options: PassOptions) -> list[IntArray]:
    """Columns by the bits that they need, as far as that pays; one group where it does not."""
    prices, columns = options.prices, np.arange(x.shape[-1] if x.shape else 1)
    widest = bits_read(table.values, table.offset, x)
    cheap = [b for b in range(1, widest) if prices.table(b) < (1 - SHARE) * prices.table(widest)]
    if columns.size < FEWEST or not cheap:
        return [columns]
    rows = x.lo.size // columns.size

    def milliseconds(bits: int, count: int) -> float:
        return prices.table(bits) * -(-rows * count // prices.threads) * prices.threads

    widths = np.array([bits_read(table.values, *_column(table, x, i)) for i in columns])
    groups, left = list[IntArray](), widest
    for bits in sorted({*widths[widths <= min(WIDEST, max(cheap))].tolist()}, reverse=True):
        rest = np.flatnonzero(widths <= left)
        wide, narrow = rest[widths[rest] > bits], rest[widths[rest] <= bits]
        now = milliseconds(left, rest.size)
        saved = now - milliseconds(left, wide.size) - milliseconds(bits, narrow.size)
        if wide.size and saved > SHARE * now:
            groups.append(wide)
            left = bits
    return [*groups, np.flatnonzero(widths <= left)]


def _column(table: Table, x: Interval, i: int) -> tuple[IntArray, Interval]:
    """Offset and range of one column."""
    offset = np.broadcast_to(table.offset, x.shape)
    return offset[..., i], Interval(x.lo[..., i], x.hi[..., i])


def cut(program: Program, groups: Groups) -> Program:
    """The same program, each table named in `groups` cut into one for each group of its columns.

    Each gets its name from `name_of_group`.
    """
    if not groups:
        return program
    return remove_dead_nodes(_Cut(program, groups).program())


def name_of_group(table: str, group: int) -> str:
    """What the table of a group of columns is called."""
    return f"{table}.columns{group}"


class _Cut:
    """The nodes of the new program; `order` says which columns stand where in cut values."""

    def __init__(self, program: Program, groups: Groups) -> None:
        self.given, self.groups = program, groups
        self.of = {node.name: node for node in program.nodes}
        self.readers = program.consumers()
        self.made: dict[str, Node] = {}
        self.order: dict[str, IntArray] = {}

    def program(self) -> Program:
        """All nodes, one after the other."""
        for node in self.given.nodes:
            if isinstance(node, Table) and node.name in self.groups:
                self._cut(node)
            elif isinstance(node, Linear):
                self._multiply(node.name, node.layer, node.inputs[0], node.weight)
            else:
                self.made[node.name] = node
        return self.given.rewritten(self.made.values())

    def _cut(self, table: Table) -> None:
        """Its groups, one behind the other; all in their places for who does not multiply them."""
        shape, parts = self.given.ranges[table.name].shape, list[str]()
        for g, some in enumerate(self.groups[table.name]):
            name = name_of_group(table.name, g)
            source = self._select(table.inputs[0], some, name, table.layer)
            offset = compact(columns_of(table.offset, some, shape[-1]))
            self.made[name] = replace(table, name=name, inputs=(source,), offset=offset)
            parts.append(name)
        joined = _joined(table.name)
        self.made[joined] = Concat(joined, table.layer, tuple(parts), len(shape) - 1)
        self.order[table.name] = np.concatenate(self.groups[table.name])
        is_output = any(port.name == table.name for port in self.given.outputs)
        if is_output or not all(isinstance(by, Linear) for by in self.readers[table.name]):
            back = np.eye(shape[-1], dtype=np.int64)
            self._multiply(table.name, table.layer, table.name, back)

    def _multiply(self, name: str, layer: str, source: str, weight: IntArray) -> None:
        """source @ weight, wherever the columns of the source stand now."""
        if (order := self.order.get(source)) is not None:
            source, weight = _joined(source), weight[order]
        self.made[name] = Linear(name, layer, (source,), weight)

    def _select(self, name: str, some: IntArray, reader: str, layer: str) -> str:
        """The name of a value that is some columns of another: computed no further than that."""
        node, columns = self.of.get(name), self.given.ranges[name].shape[-1]
        new = f"{reader}.{name}"
        match node:
            case Linear():
                self._multiply(new, node.layer, node.inputs[0], node.weight[:, some])
                return new
            case AddConst():
                made: Node = replace(node, value=columns_of(node.value, some, columns))
            case Scale():
                made = replace(node, factor=columns_of(node.factor, some, columns))
            case Round():
                made = node
            case Add() if all(self.given.ranges[i].shape[-1:] == (columns,) for i in node.inputs):
                made = node
            case _:
                self._multiply(new, layer, name, np.eye(columns, dtype=np.int64)[:, some])
                return new
        sources = tuple(self._select(source, some, reader, layer) for source in made.inputs)
        self.made[new] = replace(made, name=new, inputs=sources)
        return new


def _joined(name: str) -> str:
    """What holds all columns of a cut value, group behind group."""
    return f"{name}.parts"
