"""Scores behind a mask of constants in, scores without it and what is seen of them out.

A mask adds minus infinity, or a number that comes near it, where a token must not be seen, or picks
it by a constant condition.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from torusformer.fhe_compile.frontend.decompose.rewriter import Rewriter, shape_of
from torusformer.fhe_compile.frontend.symbols import Clear

UNSEEN = -1e4  # a constant from here down is that of a mask

Mask = NDArray[np.bool_]


def without_mask(graph: Rewriter, name: str) -> tuple[str, Mask]:
    """The scores before the masks, and which of them are seen, of the tensor's shape."""
    shape = shape_of(graph.symbols[name])
    seen = np.ones(shape, bool)
    while (node := graph.maker(name)) is not None:
        found = _added(graph, node, shape) or _chosen(graph, node, shape)
        if found is None:
            break
        name, unseen = found
        seen &= ~unseen
    return name, seen


def _constant(graph: Rewriter, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    symbol = graph.symbols[name]
    return np.broadcast_to(symbol.value, shape) if isinstance(symbol, Clear) else None


def _added(
    graph: Rewriter, node: onnx.NodeProto, shape: tuple[int, ...]
) -> tuple[str, Mask] | None:
    """x of x + mask."""
    if node.op_type != "Add":
        return None
    for mask, other in (tuple(node.input), tuple(node.input)[::-1]):
        value = _constant(graph, mask, shape)
        if value is None or not (value <= UNSEEN).any():
            continue
        rest = np.where(value <= UNSEEN, 0, value)
        return _spread(graph, graph.emit("Add", other, rest) if rest.any() else other, shape), (
            value <= UNSEEN
        )
    return None


def _chosen(
    graph: Rewriter, node: onnx.NodeProto, shape: tuple[int, ...]
) -> tuple[str, Mask] | None:
    """x of Where(seen, x, constant) or Where(unseen, constant, x)."""
    if node.op_type != "Where":
        return None
    condition = _constant(graph, node.input[0], shape)
    if condition is None:
        return None
    condition = condition.astype(bool)
    for at, chosen in ((1, condition), (2, ~condition)):
        value = _constant(graph, node.input[at], shape)
        if value is not None and chosen.any() and (value[chosen] <= UNSEEN).all():
            return _spread(graph, node.input[3 - at], shape), chosen
    return None


def _spread(graph: Rewriter, name: str, shape: tuple[int, ...]) -> str:
    if shape_of(graph.symbols[name]) == shape:
        return name
    return graph.emit("Expand", name, graph.constant(shape, np.int64))
