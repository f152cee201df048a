"""Older and equivalent forms of ONNX operators, and those of QCDQ, made one.

Operators that took attributes take constants since; `QuantizeLinear` and `DequantizeLinear` are a
`Quant` in two halves, integers of ONNX between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.arithmetic import need_quantized
from torusformer.fhe_compile.frontend.quant import quantize
from torusformer.fhe_compile.frontend.quantizers import shifted
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Clear,
    Pooled,
    Symbol,
    TokenWise,
    affine,
)
from torusformer.fhe_compile.frontend.windows import pad

Attributes = dict[str, Any]
Arguments = list[Symbol | None]
_TO_INPUTS = {
    "Clip": ("min", "max"),
    "Slice": ("starts", "ends", "axes"),
    "Split": ("split",),
    "Pad": ("pads", "value"),
}  # in the order of inputs 1 and on
_GROWING = frozenset({
    "Relu", "Sigmoid", "Tanh", "Selu", "Softplus", "Softsign", "Erf", "Exp", "Ceil", "Floor",
    "Round", "Clip", "Max", "Min", "Add", "Celu", "Elu", "LeakyRelu", "HardSigmoid",
})  # fmt: skip


def modern(
    proto: onnx.NodeProto, args: Arguments, attr: Attributes
) -> tuple[onnx.NodeProto, Arguments, Attributes]:
    """The node with constants for attributes of older opsets."""
    names = [n for n in _TO_INPUTS.get(proto.op_type, ()) if n in attr]
    if not names or len(args) > 1:
        return proto, args, attr
    given: Arguments = [args[0]]
    for name in _TO_INPUTS[proto.op_type]:
        kind = np.float32 if name in ("min", "max", "value") else np.int64
        given.append(Clear(np.array(attr[name], kind)) if name in attr else None)
    rest = {k: v for k, v in attr.items() if k not in names}
    inputs = ["" if a is None else f"x{i}" for i, a in enumerate(given)]
    node = helper.make_node(proto.op_type, inputs, list(proto.output), name=proto.name, **rest)
    return node, given, rest


def keeps_all(builder: Builder, op: str, args: Sequence[Symbol | None]) -> bool:
    """Whether a Relu or Clip changes no value that its operand can have."""
    x = args[0]
    if not isinstance(x, Affine) or op not in ("Relu", "Clip"):
        return False
    bounds = [-np.inf, np.inf]
    if op == "Relu":
        bounds[0] = 0.0
    for i, limit in enumerate(args[1:3]):
        if isinstance(limit, Clear) and limit.value.size == 1:
            bounds[i] = float(limit.value.reshape(()))
        elif limit is not None:
            return False
    reach = builder.ranges[x.var]
    ends = [x.scale * end + x.offset for end in (reach.lo, reach.hi)]
    slack = 1e-6 * np.abs(x.scale)
    return bool(
        (np.minimum(*ends) >= bounds[0] - slack).all()
        and (np.maximum(*ends) <= bounds[1] + slack).all()
    )


def grows(op: str, args: Sequence[Symbol | None], attr: Attributes) -> bool:
    """Whether an operator's result never falls where its one pooled operand rises."""
    pooled = [a for a in args if isinstance(a, Pooled)]
    others = [a for a in args if a is not None and not isinstance(a, Pooled)]
    if len(pooled) != 1:
        return False
    if op == "BatchNormalization":
        gamma = args[1]
        return pooled[0].channels and isinstance(gamma, Clear) and bool((gamma.value > 0).all())
    if not all(isinstance(a, Clear) and pooled[0].takes(a.value) for a in others):
        return False
    clear = [a.value for a in others if isinstance(a, Clear)]
    first = isinstance(args[0], Pooled)
    match op:
        case "Mul" | "PRelu":
            return bool((clear[0] > 0).all())
        case "Div":
            return first and bool((clear[0] > 0).all())
        case "Sub" | "Clip":
            return first
    return op in _GROWING and float(attr.get("alpha", 1.0)) >= 0


def _at_axis(array: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """A vector along one axis of a tensor of that rank."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim != 1 or not -rank <= axis < rank:
        raise LoweringError(f"a scale of shape {array.shape} along axis {axis}; one or a channel")
    return array.reshape(tuple(-1 if i == axis % rank else 1 for i in range(rank)))


def _parts(
    args: Sequence[Symbol | None], attr: Attributes
) -> tuple[np.ndarray, np.ndarray, np.dtype[Any]]:
    """Scale and zero point as they broadcast to the tensor, and the type of its integers."""
    x, scale, zero = args[0], args[1], args[2] if len(args) > 2 else None
    if not isinstance(scale, Clear) or not (zero is None or isinstance(zero, Clear)) or x is None:
        raise LoweringError("its scale and zero point must be constants")
    if attr.get("block_size", 0):
        raise LoweringError("it has a scale a block; use one a tensor or a channel")
    point = np.zeros((), np.uint8) if zero is None else zero.value
    rank, axis = len(x.shape), int(attr.get("axis", 1))
    return (
        _at_axis(scale.value.astype(np.float64), rank, axis),
        _at_axis(point, rank, axis),
        point.dtype,
    )


def quantize_linear(
    builder: Builder,
    layer: str,
    args: Sequence[Symbol | None],
    attr: Attributes,
    clips: Sequence[tuple[float, float]],
) -> Symbol:
    """ONNX's integers of x: their real value is the integer. All readers are `clips`, if any."""
    scale, zero, kind = _parts(args, attr)
    if kind.kind not in "iu" or kind.itemsize > 4:
        raise LoweringError(f"it gives {kind}; whole numbers are supported")
    lo, hi = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    if clips:
        lo = max(lo, int(np.ceil(min(low for low, _ in clips))))
        hi = min(hi, int(np.floor(max(high for _, high in clips))))
    x = args[0]
    assert x is not None
    found = quantize(builder, layer, x, shifted(scale, zero, lo, hi))
    point = float(zero.flat[0])
    if isinstance(found, Clear) and found.ints is not None:
        return Clear((found.ints + int(point)).astype(kind))
    found = need_quantized(found, "what it quantizes")
    unit = np.broadcast_to(scale, found.shape)
    return affine(found.var, found.shape, found.scale / unit, found.offset / unit + point)


def dequantize_linear(args: Sequence[Symbol | None], attr: Attributes) -> Symbol:
    """(x - zero point) * scale."""
    scale, zero, _ = _parts(args, attr)
    x = args[0]
    if isinstance(x, Clear):
        if x.value.dtype.kind not in "iu":
            raise LoweringError(f"it reads {x.value.dtype}; whole numbers are supported")
        ints = x.value.astype(np.int64)
        unit, point = (np.broadcast_to(a.astype(np.float64), ints.shape) for a in (scale, zero))
        return Clear(((ints - point) * unit).astype(np.float32), ints, unit, -point * unit)
    x = need_quantized(x, "what it reads")
    return affine(x.var, x.shape, x.scale * scale, (x.offset - zero.astype(np.float64)) * scale)


def tokens_linear(
    builder: Builder, layer: str, op: str, args: Sequence[Symbol | None], attr: Attributes
) -> TokenWise:
    """`QuantizeLinear` or `DequantizeLinear` of what depends on tokens alone."""
    x, (scale, zero, kind) = args[0], _parts(args, attr)
    if not isinstance(x, TokenWise):
        raise LoweringError("its scale and zero point must be constants")
    if op == "QuantizeLinear":
        if kind.kind not in "iu" or kind.itemsize > 4:
            raise LoweringError(f"it gives {kind}; whole numbers are supported")
        limits = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        found = quantize(builder, layer, x, shifted(scale, zero, *limits))
        assert isinstance(found, TokenWise) and found.entries.ints is not None
        whole = (found.entries.ints + int(zero.flat[0])).astype(kind)
        return TokenWise(x.source, x.positions, Clear(whole))
    value = x.entries.value
    if value.dtype.kind not in "iu":
        raise LoweringError(f"it reads {value.dtype}; whole numbers are supported")
    own = np.broadcast_shapes(value.shape[1:], scale.shape, zero.shape)
    ints = np.broadcast_to(value.astype(np.int64), (len(value), *own))
    unit, point = (np.broadcast_to(a.astype(np.float64), x.shape) for a in (scale, zero))
    real = ((ints - zero.astype(np.float64)) * scale).astype(np.float32)
    return TokenWise(x.source, x.positions, Clear(real, ints, unit, -point * unit))


def padded(builder: Builder, layer: str, args: Sequence[Symbol | None], attr: Attributes) -> Symbol:
    """Pad with a constant."""
    mode = attr.get("mode", b"constant")
    if mode not in (b"constant", "constant"):
        raise LoweringError(f"Pad with mode {mode!r}; pad with a constant")
    x = need_quantized(args[0], "its input")
    if not all(a is None or isinstance(a, Clear) for a in args[1:]):
        raise LoweringError("its widths and value must be constants")
    widths, value, axes = ([*args[1:], None, None, None])[:3]
    assert isinstance(widths, Clear)
    on = [int(a) % len(x.shape) for a in axes.value] if isinstance(axes, Clear) else None
    on = list(range(len(x.shape))) if on is None else on
    counts = widths.value.ravel().tolist()
    if len(counts) != 2 * len(on):
        raise LoweringError(f"{len(counts)} widths for {len(on)} axes")
    ends = np.zeros((2, len(x.shape)), np.int64)
    ends[:, on] = np.array(counts, np.int64).reshape(2, -1)
    fill = float(value.value.reshape(-1)[0]) if isinstance(value, Clear) else 0.0
    return pad(builder, layer, x, ends[0].tolist(), ends[1].tolist(), fill)


def whole_numbers(symbol: Symbol | None) -> bool:
    """Whether a cast to integers changes nothing: all values are whole."""
    return isinstance(symbol, Affine) and all(
        bool((part == np.rint(part)).all()) for part in (symbol.scale, symbol.offset)
    )
