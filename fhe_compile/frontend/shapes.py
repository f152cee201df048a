"""Shapes of a node's operands in, that of its result out, also of operators that do not lower.

Python alone: no graph from outside is handed to a library for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from torusformer.fhe_compile.frontend.elementwise import ELEMENTWISE

Shape = tuple[int, ...]
_KEEPS = frozenset({
    "BatchNormalization", "BipolarQuant", "Dropout", "GroupNormalization", "Hardmax", "Identity",
    "InstanceNormalization", "IntQuant", "LayerNormalization", "LogSoftmax", "LpNormalization",
    "LRN", "Quant", "RMSNormalization", "Softmax", "Trunc",
})  # fmt: skip
_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})


def result_shape(proto: onnx.NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    """The shape of the first result; None where it takes more than shapes to say, or none fits."""
    attr = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    try:
        return _result_shape(proto.op_type, attr, shapes)
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
        return None


def _result_shape(op: str, attr: dict[str, Any], shapes: Sequence[Shape]) -> Shape | None:
    if op in _KEEPS:
        return shapes[0]
    if op in ELEMENTWISE:
        return np.broadcast_shapes(*shapes)
    if op == "MatMul":
        (*left, rows, inner), (*right, same, columns) = shapes[:2]
        if inner != same:
            return None
        return (*np.broadcast_shapes(tuple(left), tuple(right)), rows, columns)
    if op == "Gemm":
        rows = shapes[0][1 if attr.get("transA") else 0]
        return (rows, shapes[1][0 if attr.get("transB") else 1])
    if op == "Concat":
        axis = int(attr["axis"]) % len(shapes[0])
        joined = sum(shape[axis] for shape in shapes)
        return (*shapes[0][:axis], joined, *shapes[0][axis + 1 :])
    if op == "Conv":
        return (shapes[0][0], shapes[1][0], *_windows(shapes[0][2:], shapes[1][2:], attr))
    if op in _POOLS:
        return (*shapes[0][:2], *_windows(shapes[0][2:], tuple(attr["kernel_shape"]), attr))
    if op.startswith("Global") and op.endswith("Pool"):
        return (*shapes[0][:2], *(1 for _ in shapes[0][2:]))
    if op.startswith(("Reduce", "ArgM")) and len(shapes) == 1:
        return _reduced(shapes[0], op, attr)
    return None


def _windows(sizes: Shape, kernel: Shape, attr: dict[str, Any]) -> Shape:
    """How many windows of `kernel` fit along each axis."""
    rank = len(sizes)
    strides = attr.get("strides", [1] * rank)
    if (auto := attr.get("auto_pad", b"NOTSET")) in (b"SAME_UPPER", b"SAME_LOWER"):
        return tuple(-(-n // s) for n, s in zip(sizes, strides, strict=True))
    dilations = attr.get("dilations", [1] * rank)
    pads = attr.get("pads", [0] * 2 * rank) if auto == b"NOTSET" else [0] * 2 * rank
    up = bool(attr.get("ceil_mode", 0))
    found = []
    for i, (n, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        room = n + pads[i] + pads[i + rank] - d * (k - 1) - 1
        found.append((-(-room // s) if up else room // s) + 1)
    if min(found) < 1:
        raise ValueError(found)
    return tuple(found)


def _reduced(shape: Shape, op: str, attr: dict[str, Any]) -> Shape:
    given = [attr["axis"]] if "axis" in attr else attr.get("axes", [0] * op.startswith("ArgM"))
    axes = {a % len(shape) for a in given} or set(range(len(shape)))
    keep = bool(attr.get("keepdims", 1))
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
