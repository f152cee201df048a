"""An ONNX operator that combines numbers of a tensor, or of two: which function lowers it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from torusformer.fhe_compile.frontend.arithmetic import (
    batch_norm,
    binary,
    larger,
    need_quantized,
    reduce,
)
from torusformer.fhe_compile.frontend.contractions import einsum, gemm, product
from torusformer.fhe_compile.frontend.convolution import (
    convolution,
    transposed_convolution,
)
from torusformer.fhe_compile.frontend.forms import dequantize_linear, padded
from torusformer.fhe_compile.frontend.layout import concat
from torusformer.fhe_compile.frontend.pooling import (
    at_once,
    average_pool,
    global_average,
    max_pool,
    maximum_over,
)
from torusformer.fhe_compile.frontend.symbols import Affine, Builder, Clear, Symbol


def combine(
    builder: Builder, layer: str, op: str, args: Sequence[Symbol | None], attr: dict[str, Any]
) -> Symbol | None:
    """The result where it is no function of each number by itself, or needs no table; else None."""
    given = [a for a in args if a is not None]
    x = args[0] if args else None
    match op:
        case "MatMul":
            return product(builder, layer, given[0], given[1])
        case "Gemm":
            return gemm(builder, layer, args, attr)
        case "Einsum":
            return einsum(builder, layer, args, attr)
        case "Conv":
            return convolution(builder, layer, args, attr)
        case "ConvTranspose":
            return transposed_convolution(builder, layer, args, attr)
        case "AveragePool":
            return average_pool(builder, layer, x, attr)
        case "GlobalAveragePool":
            return global_average(builder, layer, x)
        case "MaxPool":
            return max_pool(builder, layer, x, attr)
        case "GlobalMaxPool":
            axes = tuple(range(2, len(given[0].shape)))
            return maximum_over(builder, layer, x, axes, keepdims=True)
        case "ReduceMax":
            keep = bool(attr.get("keepdims", 1))
            return maximum_over(builder, layer, x, _axes(given, attr), keepdims=keep)
        case "ReduceMin":
            keep = bool(attr.get("keepdims", 1))
            least = maximum_over(builder, layer, negated(x), _axes(given, attr), keepdims=keep)
            return negated(at_once(builder, layer, least))
        case "ReduceSum" | "ReduceMean":
            axes = _axes(given, attr)
            if not axes and attr.get("noop_with_empty_axes", 0):
                return given[0]
            return reduce(builder, layer, op, given[0], axes, bool(attr.get("keepdims", 1)))
        case "BatchNormalization":
            return batch_norm(builder, layer, list(args), attr)
        case "Concat":
            return concat(builder, layer, given, int(attr["axis"]))
        case "Pad":
            return padded(builder, layer, args, attr)
        case "DequantizeLinear":
            return dequantize_linear(args, attr)
        case "Neg" if isinstance(x, Affine):
            return negated(x)
        case "Max" | "Min" if len(given) == 2:
            return larger(builder, layer, op, given[0], given[1])
        case "Sum" | "Mean":
            add = helper.make_node("Add", ["x", "y"], ["z"])
            total = functools.reduce(lambda a, b: binary(builder, layer, add, a, b), given)
            if op == "Sum" or len(given) == 1:
                return total
            half = helper.make_node("Div", ["x", "y"], ["z"])
            return binary(builder, layer, half, total, Clear(np.array(len(given), np.float32)))
    return None


def negated(symbol: Symbol | None) -> Affine:
    """Minus a quantized tensor."""
    x = need_quantized(symbol, "its input")
    return Affine(x.var, -x.scale, -x.offset)


def _axes(given: Sequence[Symbol], attr: dict[str, Any]) -> tuple[int, ...]:
    """Of a reduction, from its attribute or its second operand; none where it is over all."""
    if len(given) > 1 and isinstance(given[1], Clear):
        return tuple(int(v) for v in np.atleast_1d(given[1].value))
    return tuple(attr.get("axes", ()))
