"""ONNX arithmetic (products, sums, reductions, batch norm) on symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.graphs import axis_of
from torusformer.fhe_compile.frontend.grids import on_grid, product_scales
from torusformer.fhe_compile.frontend.inputs import input_by_constant, not_quantized
from torusformer.fhe_compile.frontend.layout import transpose_by
from torusformer.fhe_compile.frontend.symbols import (
    LARGEST,
    Affine,
    Builder,
    Clear,
    Pending,
    Pooled,
    Symbol,
    Unquantized,
    affine,
    broadcast_var,
    compact,
    moved,
    refuse_size,
    uniform,
    whole,
)
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Linear,
    MatMul,
    Max,
    Mul,
    Scale,
    Sub,
    Sum,
)

_PACKED_BITS = 8  # that a table of two operands reads at most
_MAX_SCALE_RATIO = 16  # two summands whose scales are p : q up to this are brought together


def _square(builder: Builder, layer: str, x: Symbol) -> Symbol:
    """x * x or x ** 2 as a product of integers; any other symbol unchanged."""
    if not isinstance(x, Pending) or not isinstance(x.args[0], Affine):
        return x
    base, other = x.args[0], x.args[1] if len(x.args) > 1 else None
    twice = (
        x.proto.op_type == "Mul"
        and isinstance(other, Affine)
        and other.var == base.var
        and np.array_equal(other.scale, base.scale)
        and np.array_equal(other.offset, base.offset)
    )
    power = x.proto.op_type == "Pow" and isinstance(other, Clear) and np.all(other.value == 2)
    if not (twice or power):
        return x
    integers = _integers(builder, layer, base, "the squared operand")
    var = builder.emit(Mul, layer, (integers, integers))
    return affine(broadcast_var(builder, layer, var, x.shape), x.shape, base.scale**2)


def need_quantized(symbol: Symbol | None, what: str) -> Affine:
    """The symbol, where it is integers times a scale; a LoweringError says what it is else."""
    if isinstance(symbol, Affine):
        return symbol
    if isinstance(symbol, Pending):
        raise LoweringError(
            f"{what} is a float tensor (after {symbol.proto.op_type}) that no quantizer reads; "
            "add a QuantIdentity before it"
        )
    if isinstance(symbol, Unquantized):
        raise not_quantized(what)
    if isinstance(symbol, Pooled):
        raise LoweringError(
            f"{what} is the largest of float numbers that no quantizer reads; "
            "add a QuantIdentity before it"
        )
    if symbol is None:
        raise LoweringError(f"{what} is missing")
    raise LoweringError(f"{what} is a constant")


def _integers(builder: Builder, layer: str, x: Affine, what: str) -> str:
    """The program value that is x / scale, where the offset is a whole multiple of the scale."""
    shift = x.offset / x.scale
    if np.any(np.abs(shift - np.rint(shift)) > 1e-4):
        raise LoweringError(
            f"{what} has an offset that is no whole multiple of its quantizer's scale; "
            "quantize it after the bias is added"
        )
    steps = compact(whole(np.rint(shift)))
    return builder.emit(AddConst, layer, (x.var,), value=steps) if steps.any() else x.var


def _ratio(a: np.ndarray, b: np.ndarray) -> tuple[int, int] | None:
    """Small whole p, q with a * p = b * q everywhere, or None."""
    for p in range(1, _MAX_SCALE_RATIO + 1):
        q = a * p / b
        near = np.rint(q.flat[0])
        if 1 <= near <= _MAX_SCALE_RATIO and np.allclose(q, near, rtol=1e-6, atol=0.0):
            return p, int(near)
    return None


def linear(builder: Builder, layer: str, x: Symbol, weight: Clear) -> Affine:
    """x @ weight, weight quantized."""
    x = need_quantized(x, "the left operand")
    found = on_grid(weight, 1 if weight.value.ndim == 2 else None)
    if found is None or found.ints is None or found.scale is None or found.offset is None:
        raise LoweringError(
            "its weight is a float constant; use a Brevitas layer with weight_bit_width"
        )
    if found.ints.ndim != 2:
        raise LoweringError(f"its weight has {found.ints.ndim} axes, 2 are supported")
    if x.shape[-1:] != found.ints.shape[:1]:
        raise LoweringError(f"shapes {x.shape} and {found.ints.shape} do not fit")
    zero = found.offset / found.scale
    if np.any(np.abs(zero - np.rint(zero)) > 1e-4):
        raise LoweringError("its weight has a zero point that is no whole number; use 0")
    ints = found.ints + whole(np.rint(zero))
    together = product_scales(x.scale, ints, found.scale)
    if together is None and not uniform(found.scale, (0,)):
        raise LoweringError(
            "its weight has scales that differ along the summed axis; use one scale an output"
        )
    if together is None:
        raise LoweringError(
            "its input has a scale a channel along the summed axis; quantize it with one scale"
        )
    weights, scale = together
    var = builder.emit(Linear, layer, (x.var,), weight=weights)
    return affine(var, builder.ranges[var].shape, scale, x.offset @ (ints * found.scale))


def matmul(builder: Builder, layer: str, x: Symbol, y: Symbol) -> Symbol:
    """x @ y where either or both are encrypted."""
    if isinstance(y, Clear):
        return linear(builder, layer, x, y)
    if isinstance(x, Clear):
        y = need_quantized(y, "the right operand")
        if y.scale.ndim < 2 or x.value.ndim < 2:
            raise LoweringError("a constant left operand must be a quantized matrix")

        def turn(symbol: Symbol) -> Symbol:
            rank = len(symbol.shape)
            flip = transpose_by(layer, (*range(rank - 2), rank - 1, rank - 2))
            return moved(builder, layer, symbol, flip)

        return turn(matmul(builder, layer, turn(y), turn(x)))
    x, y = need_quantized(x, "the left operand"), need_quantized(y, "the right operand")
    if min(x.scale.ndim, y.scale.ndim) < 2:
        raise LoweringError("a product of two encrypted tensors needs at least 2 axes each")
    if not uniform(x.scale, (x.scale.ndim - 1,)) or not uniform(y.scale, (y.scale.ndim - 2,)):
        raise LoweringError(
            "an operand has scales that differ along the summed axis; quantize it with one scale"
        )
    left = _integers(builder, layer, x, "the left operand")
    right = _integers(builder, layer, y, "the right operand")
    var = builder.emit(MatMul, layer, (left, right))
    return affine(var, builder.ranges[var].shape, x.scale[..., :, :1] * y.scale[..., :1, :])


def binary(builder: Builder, layer: str, proto: onnx.NodeProto, x: Symbol, y: Symbol) -> Symbol:
    """Add, Sub, Mul or Div; stays affine where that costs no bootstrap."""
    op = proto.op_type
    shape = np.broadcast_shapes(x.shape, y.shape)
    refuse_size(shape)
    if isinstance(x, Unquantized | Clear) and isinstance(y, Unquantized | Clear):
        return input_by_constant(op, x, y)
    if isinstance(x, Unquantized) or isinstance(y, Unquantized):
        need_quantized(x if isinstance(x, Unquantized) else y, "an operand")
    if isinstance(x, Affine) and isinstance(y, Clear):
        result = _affine_by_constant(builder, layer, op, x, y, shape)
    elif isinstance(x, Clear) and isinstance(y, Affine) and op != "Div":
        if op == "Sub":
            y = Affine(y.var, -y.scale, -y.offset)
        result = _affine_by_constant(builder, layer, "Mul" if op == "Mul" else "Add", y, x, shape)
    elif (
        isinstance(x, Affine) and isinstance(y, Affine) and x.var == y.var and op in ("Add", "Sub")
    ):
        result = _twice_the_same(op, x, y)
    elif isinstance(x, Affine) and isinstance(y, Affine) and op != "Div" and x.var != y.var:
        result = _two_encrypted(builder, layer, op, x, y, shape)
    else:
        result = None
    return result if result is not None else Pending(proto, (x, y), shape)


def _affine_by_constant(
    builder: Builder, layer: str, op: str, x: Affine, y: Clear, shape: tuple[int, ...]
) -> Affine | None:
    c = y.value.astype(np.float64)
    if not np.all(np.isfinite(c)) or (op in ("Mul", "Div") and np.any(c == 0)):
        return None
    var = broadcast_var(builder, layer, x.var, shape)
    match op:
        case "Add":
            return affine(var, shape, x.scale, x.offset + c)
        case "Sub":
            return affine(var, shape, x.scale, x.offset - c)
        case "Mul":
            return affine(var, shape, x.scale * c, x.offset * c)
    return affine(var, shape, x.scale / c, x.offset / c)


def _twice_the_same(op: str, x: Affine, y: Affine) -> Affine | None:
    """Of the same integers: their scales add up; None where nothing is left of them."""
    if x.shape != y.shape:
        return None
    sign = -1 if op == "Sub" else 1
    scale = x.scale + sign * y.scale
    return None if (scale == 0).any() else Affine(x.var, scale, x.offset + sign * y.offset)


def _two_encrypted(
    builder: Builder, layer: str, op: str, x: Affine, y: Affine, shape: tuple[int, ...]
) -> Affine | None:
    """Integer Add, Sub or Mul; None where the scales do not meet (a packed table is left)."""
    if op == "Mul":
        left = _integers(builder, layer, x, "the left operand")
        right = _integers(builder, layer, y, "the right operand")
        return affine(builder.emit(Mul, layer, (left, right)), shape, x.scale * y.scale)
    sign = -1 if op == "Sub" else 1
    a, b = np.broadcast_to(x.scale, shape), np.broadcast_to(y.scale, shape)
    ratio = _ratio(a, b)
    if ratio is None:
        return None
    left, right = x.var, y.var
    p, q = ratio  # scale = a / q = b / p: a unit of x is q of the common one, of y p
    if q != 1:
        left = builder.emit(Scale, layer, (left,), factor=np.array(q))
    if p != 1:
        right = builder.emit(Scale, layer, (right,), factor=np.array(p))
    var = builder.emit(Add if sign > 0 else Sub, layer, (left, right))
    return affine(var, shape, a / q, x.offset + sign * y.offset)


def larger(builder: Builder, layer: str, op: str, x: Symbol, y: Symbol) -> Symbol | None:
    """Max or Min of two encrypted tensors on one grid, where a packed table would be no narrower.

    None leaves it to a table.
    """
    if not isinstance(x, Affine) or not isinstance(y, Affine) or x.var == y.var:
        return None
    widths = [builder.ranges[v.var].span_bits for v in (x, y)]
    shape = np.broadcast_shapes(x.shape, y.shape)
    scale = np.broadcast_to(x.scale, shape)
    if sum(widths) <= _PACKED_BITS or not np.allclose(scale, y.scale, rtol=1e-6, atol=0.0):
        return None
    shift = (y.offset - x.offset) / scale
    if np.any(np.abs(shift - np.rint(shift)) > 1e-4) or not (scale > 0).all():
        return None
    steps, right = compact(whole(np.rint(shift))), broadcast_var(builder, layer, y.var, shape)
    if steps.any():
        right = builder.emit(AddConst, layer, (right,), value=steps)
    left = broadcast_var(builder, layer, x.var, shape)
    if op == "Min":
        left, right = (builder.emit(Scale, layer, (v,), factor=np.array(-1)) for v in (left, right))
    var = builder.emit(Max, layer, (left, right))
    return affine(var, shape, scale if op == "Max" else -scale, x.offset)


def reduce(
    builder: Builder, layer: str, op: str, x: Symbol, axes: tuple[int, ...], keepdims: bool
) -> Affine:
    """ReduceSum or ReduceMean over axes (all where empty)."""
    x = need_quantized(_square(builder, layer, x), "its input")
    rank = x.scale.ndim
    over = tuple(sorted({axis_of(a, rank) for a in axes})) if axes else tuple(range(rank))
    if not uniform(x.scale, over):
        raise LoweringError(
            "its input has scales that differ along the summed axes; quantize it with one scale"
        )
    var = builder.emit(Sum, layer, (x.var,), axes=over, keepdims=keepdims)
    count = int(np.prod([x.shape[a] for a in over])) if op == "ReduceMean" else 1
    first = np.take(x.scale, [0], axis=over[0])
    for a in over[1:]:
        first = np.take(first, [0], axis=a)
    scale = first.reshape(builder.ranges[var].shape) / count
    return affine(
        var, builder.ranges[var].shape, scale, x.offset.sum(axis=over, keepdims=keepdims) / count
    )


def batch_norm(
    builder: Builder, layer: str, args: list[Symbol | None], attr: dict[str, Any]
) -> Symbol:
    """BatchNormalization with constant statistics: an affine map a channel (axis 1)."""
    x, *parts = args
    if x is None or isinstance(x, Clear) or not all(isinstance(p, Clear) for p in parts):
        raise LoweringError("batch norm needs a quantized input and constant statistics")
    gamma, beta, mean, variance = (
        p.value.astype(np.float64) for p in parts if isinstance(p, Clear)
    )
    given = (gamma, beta, mean, variance)
    if any(p.shape != x.shape[1:2] or not (np.abs(p) < LARGEST).all() for p in given):
        raise LoweringError(
            "batch norm's statistics are no finite numbers, one for each channel; mend the weights"
        )
    slope = gamma / np.sqrt(variance + attr.get("epsilon", 1e-5))
    column = (-1,) + (1,) * (len(x.shape) - 2)
    slope_at, shift_at = slope.reshape(column), (beta - mean * slope).reshape(column)
    scaled = binary(
        builder,
        layer,
        onnx.helper.make_node("Mul", ["x", "y"], ["z"]),
        x,
        Clear(slope_at.astype(np.float32)),
    )
    return binary(
        builder,
        layer,
        onnx.helper.make_node("Add", ["x", "y"], ["z"]),
        scaled,
        Clear(shift_at.astype(np.float32)),
    )
