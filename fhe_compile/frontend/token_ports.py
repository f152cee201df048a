"""Integers for every token in, a linear map of what the client sends out: one-hot rows or a table.

One-hot, the port is (1, T, V) bits (of a single token (1, V)), and integers are their product with
a matrix, the same for all positions where it can be. Looked up, the port is (1, T, D) integers,
rows of a public table in which every tensor has its columns: it is a slice of the port.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torusformer.fhe_compile.frontend.layout import gather_by, reshape_to, transpose_by
from torusformer.fhe_compile.frontend.symbols import Affine, Builder, TokenInput, TokenWise, varies
from torusformer.fhe_compile.program.nodes import Concat, Constant, IntArray, Linear, Port
from torusformer.fhe_compile.program.ranges import Interval


class _Rows(NamedTuple):
    """Rows (V, n) for tokens at `positions` (-1: constants), one for all of them or one each."""

    positions: tuple[int, ...]
    entries: IntArray  # (1 or len(positions), V, n)


def as_integers(builder: Builder, layer: str, tokens: TokenWise) -> Affine:
    """The quantized tensor as a value of the program."""
    ints, scale, offset = tokens.entries.ints, tokens.entries.scale, tokens.entries.offset
    assert ints is not None and scale is not None and offset is not None
    shape = tokens.shape
    # Axes along which positions differ first: one row after the other is of one token.
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    perm = sorted(axes, key=lambda axis: not varies(tokens.positions, axis))
    outer = [axis for axis in perm if varies(tokens.positions, axis)]
    rest = [axis for axis in range(len(shape)) if axis not in perm]
    order = (*perm, *rest)
    positions = tokens.positions.transpose(order).reshape(
        int(np.prod([shape[axis] for axis in outer], dtype=np.int64)), -1
    )[:, 0]
    same = all(ints.shape[axis + 1] == 1 for axis in outer)
    if not same:
        ints = np.broadcast_to(ints, (len(ints), *shape))
    rows = ints.transpose(0, *(axis + 1 for axis in order))
    rows = rows.reshape(len(ints), 1 if same else len(positions), -1).swapaxes(0, 1)

    parts = _parts(positions, rows)
    made = [_emit(builder, layer, tokens.source, part) for part in parts]
    var = made[0]
    if len(made) > 1:
        shapes = [(1, len(part.positions), part.entries.shape[2]) for part in parts]
        each = [reshape_to(layer, s).emit(builder, v) for v, s in zip(made, shapes, strict=True)]
        var = builder.emit(Concat, layer, tuple(each), axis=1)
    if perm != axes:
        var = reshape_to(layer, tuple(shape[axis] for axis in perm)).emit(builder, var)
        back = tuple(int(i) for i in np.argsort(perm))
        var = transpose_by(layer, back).emit(builder, var)
    return Affine(reshape_to(layer, shape).emit(builder, var), scale, offset)


def _parts(positions: IntArray, rows: IntArray) -> list[_Rows]:
    """The rows in order, in as few parts as can be: constants apart, each position once a part."""
    if len(rows) == 1:
        return [_Rows(tuple(int(p) for p in positions.clip(0)), rows)]
    starts = [0]
    for i in range(1, len(positions)):
        constant = positions[i] < 0, positions[i - 1] < 0
        if constant[0] != constant[1] or (
            not constant[0] and positions[i] in positions[starts[-1] : i]
        ):
            starts.append(i)
    parts = []
    for start, end in zip(starts, [*starts[1:], len(positions)], strict=True):
        own = rows[start:end]
        own = own[:1] if (own == own[:1]).all() else own
        parts.append(_Rows(tuple(int(p) for p in positions[start:end]), own))
    return parts


def _emit(builder: Builder, layer: str, source: TokenInput, part: _Rows) -> str:
    """(1, len(positions), n) integers of the program."""
    if part.positions[0] < 0:
        value = np.broadcast_to(part.entries[:, 0], (len(part.positions), part.entries.shape[2]))
        return builder.emit(Constant, layer, (), value=np.ascontiguousarray(value)[None])
    return (_columns if source.lookup else _products)(builder, layer, source, part)


def _products(builder: Builder, layer: str, source: TokenInput, part: _Rows) -> str:
    """Of one-hot rows."""
    count, vocabulary = source.count, source.vocabulary
    shape = (1, count, vocabulary)
    if all(port.name != source.name for port in builder.inputs):
        alone = (1, vocabulary) if count == 1 else shape
        builder.add_input(Port(source.name, alone, 0, 1, one_hot=True))
    if len(part.entries) == 1:
        rows = source.name
        if part.positions != (0,) or count > 1:
            rows = reshape_to(layer, shape).emit(builder, rows)
            rows = gather_by(layer, shape, 1, np.array(part.positions)).emit(builder, rows)
        return builder.emit(Linear, layer, (rows,), weight=part.entries[0])
    each = [
        _products(builder, layer, source, _Rows((position,), entries[None]))
        for position, entries in zip(part.positions, part.entries, strict=True)
    ]
    return builder.emit(Concat, layer, tuple(each), axis=1)


def _columns(builder: Builder, layer: str, source: TokenInput, part: _Rows) -> str:
    """Of table rows. Each table has an input of its own until `join_tables`."""
    table = part.entries
    if len(table) > 1:
        table = np.repeat(table[:1], source.count, axis=0)
        table[list(part.positions)] = part.entries
    ports = builder.tables.setdefault(source.name, [])
    port = next((p for p in ports if np.array_equal(p.table, table)), None)  # type: ignore[arg-type]
    if port is None:
        port = _table_port(f"{source.name}.{len(ports)}", source.count, table)
        ports.append(port)
        builder.add_input(port)
    return gather_by(layer, port.shape, 1, np.array(part.positions)).emit(builder, port.name)


def _table_port(name: str, count: int, table: IntArray) -> Port:
    shape = (1, count, table.shape[2])
    return Port(name, shape, int(table.min()), int(table.max()), table=table)


def join_tables(builder: Builder) -> dict[str, str]:
    """One input for all tables of a token input, each column once; what stands for each of them."""
    found: dict[str, str] = {}
    for name, ports in builder.tables.items():
        tables = [port.table for port in ports if port.table is not None]
        depth = max(len(table) for table in tables)
        columns: dict[bytes, int] = {}
        kept: list[IntArray] = []
        places: list[list[int]] = []
        for table in tables:
            places.append([])
            for column in np.broadcast_to(table, (depth, *table.shape[1:])).transpose(2, 0, 1):
                column = np.ascontiguousarray(column)
                places[-1].append(columns.setdefault(column.tobytes(), len(kept)))
                kept.extend([column] if places[-1][-1] == len(kept) else [])
        port = _table_port(name, ports[0].shape[1], np.stack(kept, axis=-1))
        parts = [part.name for part in ports]
        builder.inputs = [port if p.name == parts[0] else p for p in builder.inputs]
        builder.inputs = [p for p in builder.inputs if p.name not in parts]
        builder.ranges[name] = Interval.of(port)
        before, builder.nodes = builder.nodes, []
        for part, place in zip(parts, places, strict=True):
            found[part] = gather_by(name, port.shape, 2, np.array(place)).emit(builder, name)
        builder.nodes += before
    return found
