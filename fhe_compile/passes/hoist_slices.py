"""Compute only what is read: a slice moves in front of the operation it cuts.

A classifier that pools one token reads one row of its last block; cutting before instead of after
leaves T - 1 rows of queries, scores, products and tables out. Where x has no other reader:

1. Slice(Table | Round | AddConst | Scale (x)) = the same of Slice(x), its constants cut likewise.
2. Slice(Add | Sub | Mul | Max (x, y)): both operands cut, along the axes they do not repeat.
3. Slice(Linear(x, W)): rows cut from x, columns from W.
4. Slice(MatMul(x, y)): rows cut from x, columns from y, batch axes from both.
5. Slice(Transpose | Sum | Reshape | Broadcast | Slice | Constant (x)): the cut follows its axes; a
   reshape lets through the axes in front that it leaves as they are.

Two readers that cut x alike count as one. Repeats until nothing moves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from torusformer.fhe_compile.passes.common_values import merge_common_values
from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Broadcast,
    Constant,
    IntArray,
    Linear,
    MatMul,
    Max,
    Mul,
    Node,
    Program,
    Reshape,
    Round,
    Scale,
    Slice,
    Sub,
    Sum,
    Table,
    Transpose,
)

Shape = tuple[int, ...]
Cut = tuple[slice, ...]  # one slice an axis


def hoist_slices(program: Program, _: PassOptions | None = None) -> Program:
    """The same program with every slice as early as it can be, dead rows gone."""
    program = remove_dead_nodes(merge_common_values(program))
    while (moved := _hoist_one(program)) is not None:
        program = remove_dead_nodes(merge_common_values(moved))
    return program


def _hoist_one(program: Program) -> Program | None:
    shapes = {name: reach.shape for name, reach in program.ranges.items()}
    made = {node.name: node for node in program.nodes}
    readers = program.consumers()
    outputs = {port.name for port in program.outputs}
    for node in program.nodes:
        if not isinstance(node, Slice):
            continue
        source = made.get(node.inputs[0])
        if source is None or source.name in outputs or len(readers[source.name]) > 1:
            continue
        replacement = _exchange(node, source, shapes)
        if replacement is not None:
            nodes: list[Node] = []
            for other in program.nodes:
                nodes.extend(replacement if other is node else [other])
            return program.rewritten(nodes)
    return None


def _exchange(cut: Slice, source: Node, shapes: Mapping[str, Shape]) -> list[Node] | None:
    """Nodes that give `cut` of `source`, cutting first; None where the two do not commute."""
    index, shape = cut.index, shapes[source.name]
    operands = [shapes[i] for i in source.inputs]
    keep: dict[str, object] = {}
    parts: list[Cut | None]
    match source:
        case Constant():
            return [Constant(cut.name, source.layer, (), source.value[index])]
        case Table():
            parts, keep = [index], {"offset": _cut_constant(source.offset, index, shape)}
        case AddConst():
            parts, keep = [index], {"value": _cut_constant(source.value, index, shape)}
        case Scale():
            parts, keep = [index], {"factor": _cut_constant(source.factor, index, shape)}
        case Round():
            parts = [index]
        case Add() | Sub() | Mul() | Max():
            parts = [_cut_broadcast(index, operand, shape) for operand in operands]
        case Linear():
            parts = [(*index[:-1], slice(None))]
            keep = {"weight": source.weight[:, index[-1]]}
        case MatMul():
            rows, columns = (*index[:-1], slice(None)), (*index[:-2], slice(None), index[-1])
            reach = (*shape[:-2], *operands[0][-2:]), (*shape[:-2], *operands[1][-2:])
            parts = [
                _cut_broadcast(rows, operands[0], reach[0]),
                _cut_broadcast(columns, operands[1], reach[1]),
            ]
        case Transpose():
            back = np.argsort(source.perm)
            parts = [tuple(index[i] for i in back)]
        case Sum():
            parts = [_cut_sum(index, source, operands[0])]
        case Slice():
            inner = [range(n)[i] for n, i in zip(operands[0], source.index, strict=True)]
            both = [r[i] for r, i in zip(inner, index, strict=True)]
            whole = tuple(slice(r.start, r.stop, r.step) for r in both)
            return [_slice(cut.name, source.layer, source.inputs[0], whole, operands[0])]
        case Broadcast():
            parts = [_cut_broadcast(index, operands[0], shape)]
            keep = {"shape": _shape_of(index, shape)}
        case Reshape():
            parts = [_cut_reshape(index, shape, operands[0])]
            keep = {"shape": _shape_of(index, shape)}
        case _:
            return None
    if any(part is None for part in parts):
        return None
    nodes: list[Node] = []
    inputs = []
    for i, (name, part, operand) in enumerate(zip(source.inputs, parts, operands, strict=True)):
        assert part is not None
        if _shape_of(part, operand) != operand:
            nodes.append(_slice(f"{cut.name}.{i}", source.layer, name, part, operand))
            name = nodes[-1].name
        inputs.append(name)
    moved = dataclasses.replace(source, name=cut.name, inputs=tuple(inputs), **keep)  # type: ignore[arg-type]
    return [*nodes, moved]


def _slice(name: str, layer: str, source: str, cut: Cut, shape: Shape) -> Slice:
    limits = [s.indices(n) for s, n in zip(cut, shape, strict=True)]
    starts, ends, steps = (tuple(part) for part in zip(*limits, strict=True))
    return Slice(name, layer, (source,), starts, ends, steps)


def _shape_of(cut: Cut, shape: Shape) -> Shape:
    return tuple(len(range(n)[s]) for s, n in zip(cut, shape, strict=True))


def _cut_broadcast(cut: Cut, operand: Shape, shape: Shape) -> Cut:
    """The cut of an operand that broadcasts to `shape`: repeated axes stay whole."""
    own = cut[len(shape) - len(operand) :]
    return tuple(slice(None) if n == 1 else s for s, n in zip(own, operand, strict=True))


def _cut_constant(value: IntArray, cut: Cut, shape: Shape) -> IntArray:
    value = np.asarray(value)
    return value[_cut_broadcast(cut, value.shape, shape)] if value.ndim else value


def _cut_sum(cut: Cut, source: Sum, operand: Shape) -> Cut:
    kept = iter(cut)
    result = []
    for axis in range(len(operand)):
        if axis in source.axes:
            result.append(slice(None))
            if source.keepdims:
                next(kept)
        else:
            result.append(next(kept))
    return tuple(result)


def _cut_reshape(cut: Cut, shape: Shape, operand: Shape) -> Cut | None:
    """The cut in front of a reshape, if it only touches leading axes that both sides share."""
    shared = 0
    while shared < min(len(shape), len(operand)) and shape[shared] == operand[shared]:
        shared += 1
    rest = zip(cut[shared:], shape[shared:], strict=True)
    if any(len(range(n)[s]) != n for s, n in rest):
        return None
    return (*cut[:shared], *(slice(None) for _ in operand[shared:]))
