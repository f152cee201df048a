"""Move everything known in the clear out of the encrypted part of a program.

1. A value proved to be one number per element becomes a `Constant`.
2. `Add`, `Sub`, `Mul` with a constant become `AddConst` and `Scale`.
3. `MatMul` with a constant becomes `Linear`, or for a batch of matrices a `Scale` and a `Sum`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Broadcast,
    Constant,
    IntArray,
    Linear,
    MatMul,
    Mul,
    Node,
    Program,
    Reshape,
    Scale,
    Sub,
    Sum,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval


def fold_constants(program: Program, _: PassOptions | None = None) -> Program:
    """The same program with constants where constants suffice."""
    ranges = program.ranges
    constants: dict[str, IntArray] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        value = ranges[node.name]
        if (value.lo == value.hi).all():
            constants[node.name] = value.lo
            nodes.append(Constant(node.name, node.layer, (), value.lo))
        else:
            nodes.extend(_fold(node, constants, ranges))
    return program.rewritten(nodes)


def _fold(node: Node, constants: dict[str, IntArray], ranges: Mapping[str, Interval]) -> list[Node]:
    known = [i in constants for i in node.inputs]
    if not isinstance(node, Add | Sub | Mul | MatMul) or sum(known) != 1:
        return [node]
    position = known.index(False)
    x, clear = node.inputs[position], constants[node.inputs[1 - position]]
    shape, x_shape = ranges[node.name].shape, ranges[x].shape
    if isinstance(node, MatMul):
        return _fold_matmul(node, x, x_shape, clear, clear_first=position == 1)
    before: list[Node] = []
    if x_shape != shape:
        before.append(Broadcast(f"{node.name}.broadcast", node.layer, (x,), shape))
        x = before[0].name
    if isinstance(node, Mul):
        return [*before, Scale(node.name, node.layer, (x,), clear)]
    if isinstance(node, Sub) and position == 1:
        before.append(Scale(f"{node.name}.negated", node.layer, (x,), np.array(-1)))
        return [*before, AddConst(node.name, node.layer, (before[-1].name,), clear)]
    added = -clear if isinstance(node, Sub) else clear
    return [*before, AddConst(node.name, node.layer, (x,), added)]


def _fold_matmul(
    node: MatMul, x: str, x_shape: tuple[int, ...], clear: IntArray, clear_first: bool
) -> list[Node]:
    name, layer = node.name, node.layer
    if clear_first:  # C @ x = (xᵀ @ Cᵀ)ᵀ
        swap = (*range(len(x_shape) - 2), len(x_shape) - 1, len(x_shape) - 2)
        turned = Transpose(f"{name}.turned", layer, (x,), swap)
        turned_shape = tuple(x_shape[i] for i in swap)
        product = MatMul(f"{name}.product", layer, (turned.name, name))
        inner = _fold_matmul(product, turned.name, turned_shape, np.swapaxes(clear, -1, -2), False)
        rank = max(len(x_shape), clear.ndim)
        back = (*range(rank - 2), rank - 1, rank - 2)
        return [turned, *inner, Transpose(name, layer, (product.name,), back)]
    if clear.ndim == 2:
        return [Linear(name, layer, (x,), clear)]
    wide = Reshape(f"{name}.column", layer, (x,), (*x_shape, 1))  # (..., M, K, 1)
    factor = clear[..., None, :, :]  # (..., 1, K, N)
    shape = np.broadcast_shapes(wide.shape, factor.shape)
    spread = Broadcast(f"{name}.spread", layer, (wide.name,), shape)
    scaled = Scale(f"{name}.scaled", layer, (spread.name,), factor)
    return [wide, spread, scaled, Sum(name, layer, (scaled.name,), (len(shape) - 2,), False)]
