"""How real numbers become the integers that a client sends: a graph input and its quantizer.

The quantizer is the graph's own where one reads the input first. Else it is what the graph declares
(an integer type, or QONNX's annotation of a tensor), or what the caller says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from torusformer import InputError, LoweringError
from torusformer.fhe_compile.frontend.graphs import table_lengths
from torusformer.fhe_compile.frontend.quantizers import Bipolar, Quantizer
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Clear,
    FloatArray,
    Symbol,
    Unquantized,
    affine,
    moved,
)
from torusformer.fhe_compile.program.nodes import Port

MAX_INPUT_BITS = 16
_SAY_HOW = (
    "start the model with a QuantIdentity, or say how it comes (--input-bits with --input-scale, "
    "or with --calibrate)"
)
_SIGN = 2.0**40  # so many steps to the unit that only the sign is left within the port's bounds
_NUDGE = 2.0**-20  # of a step: a whole number stays itself when it is rounded down or up
_TYPES: dict[int, tuple[int, int]] = {
    TensorProto.BOOL: (0, 1),
    TensorProto.UINT8: (0, 2**8 - 1),
    TensorProto.INT8: (-(2**7), 2**7 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT4: (0, 2**4 - 1),
    TensorProto.INT4: (-(2**3), 2**3 - 1),
}
_ANNOTATED = re.compile(r"(U?INT)(\d{1,2})|FIXED<(\d{1,2}),\s*(-?\d{1,2})>")


class InputNotQuantizedError(LoweringError):
    """An operator reads the graph input, and no quantizer did before."""


@dataclass(frozen=True)
class InputFormat:
    """real = scale * (integer - zero_point), the integer from lo to hi."""

    lo: int
    hi: int
    scale: float = 1.0
    zero_point: float = 0.0

    def enter(self, builder: Builder, name: str, shape: tuple[int, ...]) -> Affine:
        """The graph input as a port of the program."""
        parts = np.array(self.scale), np.array(self.zero_point)
        builder.add_input(Port(name, shape, self.lo, self.hi, *parts))
        return affine(name, shape, self.scale, -self.zero_point * self.scale)


@dataclass(frozen=True)
class InputOptions:
    """What the caller says of inputs that no quantizer reads; `samples` by input name, or "x"."""

    scale: float | None = None
    bits: int | None = None
    signed: bool = False
    samples: Mapping[str, NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        if self.bits is None:
            if self.scale is not None or self.signed:
                raise InputError("an input's scale or sign without its bits; give --input-bits")
            return
        if not 1 <= self.bits <= MAX_INPUT_BITS:
            raise InputError(f"--input-bits is {self.bits}, it is from 1 to {MAX_INPUT_BITS}")
        if self.scale is None and self.samples is None:
            raise InputError("--input-bits without a scale; give --input-scale or --calibrate")
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise InputError(f"--input-scale is {self.scale}, it is a number above 0")

    def formats_of(self, graph: onnx.GraphProto) -> dict[str, InputFormat]:
        """How inputs enter that no quantizer reads, as far as the caller or the graph says."""
        constants = {tensor.name for tensor in graph.initializer}
        found = {}
        for value in graph.input:
            if value.name not in constants and not table_lengths(graph, value.name):
                said = self.format_of(value.name) or declared_format(graph, value)
                if said is not None:
                    found[value.name] = said
        return found

    def format_of(self, name: str) -> InputFormat | None:
        """Of the input of that name; None where the caller says nothing."""
        if self.bits is None:
            return None
        if self.scale is not None:
            signed = self.signed
            scale = self.scale
        else:
            signed, scale = _from_samples(self.samples or {}, name, self.bits, self.signed)
        half = 2 ** (self.bits - 1)
        lo, hi = (-half, half - 1) if signed else (0, 2**self.bits - 1)
        return InputFormat(lo, hi, scale)


def _from_samples(
    samples: Mapping[str, NDArray[Any]], name: str, bits: int, signed: bool
) -> tuple[bool, float]:
    """Whether there are negative samples, and the scale at which the largest just fits."""
    found = samples.get(name, samples.get("x"))
    if found is None:
        raise InputError(
            f"the samples have no array '{name}' for that graph input, and none called 'x'"
        )
    if found.dtype.kind not in "biuf" or not found.size or not np.isfinite(found).all():
        raise InputError(f"the samples for '{name}' are no finite numbers")
    low, high = float(found.min()), float(found.max())
    signed = signed or low < 0
    steps = max(1, 2 ** (bits - 1) - 1) if signed else 2**bits - 1
    return signed, max(abs(low), abs(high), 1e-6) / steps


def declared_format(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> InputFormat | None:
    """What type or annotation of a graph input say of its numbers; None where that is nothing."""
    for annotation in graph.quantization_annotation:
        entries = {e.key: e.value for e in annotation.quant_parameter_tensor_names}
        if annotation.tensor_name == value.name and "finn_datatype" in entries:
            return _annotated(entries["finn_datatype"])
    limits = _TYPES.get(value.type.tensor_type.elem_type)
    return InputFormat(*limits) if limits else None


def _annotated(kind: str) -> InputFormat | None:
    """Of a datatype by QONNX's name."""
    match kind:
        case "BIPOLAR":  # -1 and 1 are 0 and 1
            return InputFormat(0, 1, 2.0, 0.5)
        case "BINARY":
            return InputFormat(0, 1)
        case "TERNARY":
            return InputFormat(-1, 1)
    found = _ANNOTATED.fullmatch(kind)
    if not found:
        return None
    whole, count, fixed, before = found.groups()
    bits = int(count or fixed)
    if not 1 <= bits <= MAX_INPUT_BITS:
        return None
    if whole == "UINT":
        return InputFormat(0, 2**bits - 1)
    half = 2 ** (bits - 1)
    return InputFormat(-half, half - 1, 2.0 ** (int(before) - bits) if fixed else 1.0)


def not_quantized(what: str) -> InputNotQuantizedError:
    """The refusal of an operator that reads the graph input as it is."""
    return InputNotQuantizedError(f"{what} is the graph input before any quantizer; {_SAY_HOW}")


def _at_input(symbol: Unquantized, array: np.ndarray) -> FloatArray:
    """Of numbers a place after the moves, those a place of the input, or one for all."""
    if array.size == 1:
        return array.astype(np.float64).reshape(())
    count = int(np.prod(symbol.input_shape))
    index = symbol.moved(np.arange(count).reshape(symbol.input_shape))
    spread = np.broadcast_to(array, index.shape).astype(np.float64)
    found = np.full(count, np.nan)
    found[index.ravel()] = spread.ravel()
    if np.isnan(found).any() or not np.array_equal(found[index], spread):
        raise not_quantized("what has other numbers at other places")
    result = found.reshape(symbol.input_shape)
    for axis in range(result.ndim):
        first = np.take(result, [0], axis=axis)
        if (result == first).all():
            result = first
    return result if result.size > 1 else result.reshape(())


def input_by_constant(op: str, x: Unquantized | Clear, y: Unquantized | Clear) -> Unquantized:
    """Add, Sub, Mul or Div of a graph input and a constant, which the client does."""
    raw, clear = (x, y) if isinstance(x, Unquantized) else (y, x)
    if not isinstance(raw, Unquantized) or not isinstance(clear, Clear):
        raise not_quantized("an operand")
    if np.broadcast_shapes(raw.shape, clear.shape) != raw.shape:
        raise not_quantized("what spreads over a constant")
    c = _at_input(raw, clear.value)
    scale, offset = np.asarray(raw.scale), np.asarray(raw.offset)
    ends = np.array([raw.low, raw.high])
    if c.size > 1 and np.isfinite(ends).any():
        raise not_quantized("what is clipped before it is changed a channel")
    match op:
        case "Add":
            offset, ends = offset + c, ends + c
        case "Sub" if isinstance(x, Unquantized):
            offset, ends = offset - c, ends - c
        case "Mul":
            scale, offset, ends = scale * c, offset * c, ends * c
        case "Div" if isinstance(x, Unquantized):
            scale, offset, ends = scale / c, offset / c, ends / c
        case _:
            raise not_quantized(f"what a constant is changed by ({op})")
    if not ((scale > 0).all() and np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise LoweringError("the graph input is scaled by a number that is not positive")
    low, high = ends if c.size == 1 else (raw.low, raw.high)
    return replace(raw, scale=scale, offset=offset, low=float(low), high=float(high))


def clip_input(op: str, x: Unquantized, limits: Sequence[Symbol | None]) -> Unquantized | None:
    """Relu or Clip of a graph input, which the quantizer's bounds take in; None for any other."""
    if op not in ("Relu", "Clip") or not all(
        a is None or (isinstance(a, Clear) and a.value.size == 1) for a in limits
    ):
        return None
    ends = [0.0 if op == "Relu" else -np.inf, np.inf]
    for i, limit in enumerate(limits):
        if isinstance(limit, Clear):
            ends[i] = float(limit.value.reshape(()))
    return replace(x, low=min(max(x.low, ends[0]), ends[1]), high=min(x.high, ends[1]))


def quantize_input(builder: Builder, layer: str, symbol: Unquantized, q: Quantizer) -> Symbol:
    """The port through which the client sends what this quantizer gives."""
    coded = q.zero_point.size > 1 and symbol.shape == (*symbol.input_shape, 1)
    if coded:
        scale, zero = q.scale.reshape(-1)[0], q.zero_point.reshape(-1)
        shape = (*symbol.input_shape, zero.size)
    else:
        scale, zero = _at_input(symbol, q.scale), _at_input(symbol, q.zero_point)
        shape = symbol.input_shape
    steps, start = scale / symbol.scale, zero + symbol.offset / scale
    lo, hi = _limits(symbol, q)
    unit, base = scale, -zero * scale
    if isinstance(q, Bipolar):
        steps, start = steps / _SIGN, start * _SIGN + 0.75
        lo, hi, unit, base = 0, 1, 2 * scale, base - scale
    else:
        start = start + _nudge(layer, symbol, q)
    port = Port(symbol.name, shape, lo, hi, np.asarray(steps), np.asarray(start))
    known = next((p for p in builder.inputs if p.name == port.name), None)
    if known is None:
        builder.add_input(port)
    elif (known.lo, known.hi) != (port.lo, port.hi) or not (
        np.array_equal(known.scale, port.scale)
        and np.array_equal(known.zero_point, port.zero_point)
    ):
        raise InputNotQuantizedError(
            f"{layer}: the graph input '{symbol.name}' is read by two different quantizers; "
            "share one QuantIdentity"
        )
    result: Symbol = affine(port.name, port.shape, unit, base)
    for move in () if coded else symbol.moves:
        result = moved(builder, layer, result, move)
    return result


def _limits(symbol: Unquantized, q: Quantizer) -> tuple[int, int]:
    """The quantizer's bounds, and what it makes of those of the input."""
    ends = np.array([symbol.low, symbol.high])
    if not np.isfinite(ends).any():
        return q.qmin, q.qmax
    if not q.plain or any(part.size > 1 for part in q.parameters):
        raise not_quantized("what is clipped before it is quantized a channel")
    lo, hi = q.integers(np.clip(ends, -1e30, 1e30), *q.parameters)
    return int(lo), int(hi)


def _nudge(layer: str, symbol: Unquantized, q: Quantizer) -> float:
    """What the client adds before it rounds to nearest, to round as the graph does."""
    upwards = q.qmin >= 0 and not np.any(q.zero_point)  # nothing below 0 is left
    match q.rounding if q.plain else "":
        case "ROUND" | "HALF_EVEN":
            return 0.0
        case "FLOOR":
            return _NUDGE - 0.5
        case "CEIL":
            return 0.5 - _NUDGE
        case "DOWN" | "ROUND_TO_ZERO" if upwards:
            return _NUDGE - 0.5
        case "UP" if upwards:
            return 0.5 - _NUDGE
        case "HALF_UP" if upwards:
            return _NUDGE
    raise InputNotQuantizedError(
        f"{layer}: the graph input '{symbol.name}' is quantized with rounding mode "
        f"{q.rounding}; use ROUND, which is what the client does"
        if q.plain
        else f"{layer}: the first to read the graph input '{symbol.name}' is no Quant; {_SAY_HOW}"
    )
