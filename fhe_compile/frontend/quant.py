"""A QONNX `Quant` node over a symbol in, integers of the program out.

QONNX's definition: q = clip(round(x / scale + zero_point), qmin, qmax), real = (q - zero_point) *
scale (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops). Over the program's
integers it becomes, cheapest first: nothing (the integers already are the quantizer's), a `Round`
(the scale is 2^k times the accumulator's), or a `Table`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torusformer import BitWidthError, LoweringError
from torusformer.fhe_compile.frontend.elementwise import evaluate, varying_index
from torusformer.fhe_compile.frontend.symbols import (
    LARGEST,
    Affine,
    Builder,
    Clear,
    FloatArray,
    Pending,
    Symbol,
    TokenWise,
    Unquantized,
    affine,
    broadcast_var,
    compact,
    moved,
    refuse_size,
    whole,
)
from torusformer.fhe_compile.program.nodes import Add, AddConst, IntArray, Port, Round, Scale, Table
from torusformer.fhe_compile.program.ranges import LIMIT_BITS

MAX_BITS = 16  # Concrete's widest table input
MAX_QUANT_BITS = 32  # of weights and biases; float32 tells no more apart
SCALES = 1 / LARGEST, LARGEST
MAX_PACKED_BITS = 8  # widest table over two packed operands
_TIE_MARGIN = 0.01  # of one unit of the accumulator: far above float32's error, far below a half

ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}


@dataclass(frozen=True, eq=False)
class Quantizer:
    """The constants of one `Quant` node; scale and zero point broadcast to the tensor."""

    scale: FloatArray
    zero_point: FloatArray
    qmin: int
    qmax: int
    rounding: str

    def integers(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> IntArray:
        """q for float32 x, with this quantizer's rounding and clipping."""
        ratio = x.astype(np.float32) / scale.astype(np.float32) + zero_point.astype(np.float32)
        rounded = ROUNDING[self.rounding](ratio).astype(np.float64)  # float32 has no 2**31 - 1
        return np.clip(rounded, self.qmin, self.qmax).astype(np.int64)


def quantizer(
    scale: np.ndarray,
    zero_point: np.ndarray,
    bit_width: np.ndarray,
    *,
    signed: bool,
    narrow: bool,
    rounding: str,
) -> Quantizer:
    """The quantizer of a `Quant` node.

    Raises:
        LoweringError: a scale that is not positive, a fractional or varying bit width, or an
            unknown rounding mode.
    """
    found = {float(bits) for bits in np.asarray(bit_width).flat}
    if len(found) != 1 or not found <= set(range(1, MAX_QUANT_BITS + 1)):
        raise LoweringError(
            f"bit width {_few(found)} is not one whole number from 1 to {MAX_QUANT_BITS}"
        )
    if not np.size(scale) or not np.all((scale >= SCALES[0]) & (scale <= SCALES[1])):
        raise LoweringError(
            f"its scale is not positive, from {SCALES[0]} to {SCALES[1]}; calibrate the quantizer "
            "before exporting"
        )
    if not np.size(zero_point) or not np.all(np.abs(zero_point) < 2.0**MAX_QUANT_BITS):
        raise LoweringError(
            f"its zero point is no number below 2^{MAX_QUANT_BITS}; calibrate the quantizer before "
            "exporting"
        )
    if rounding.upper() not in ROUNDING:
        raise LoweringError(
            f"rounding mode '{rounding}' is unknown; use one of {', '.join(ROUNDING)}"
        )
    (n,) = map(int, found)
    qmin = -(2 ** (n - 1)) + int(narrow) if signed else 0
    qmax = 2 ** (n - 1) - 1 if signed else 2**n - 1 - int(narrow)
    return Quantizer(
        np.asarray(scale, np.float64),
        np.asarray(zero_point, np.float64),
        qmin,
        qmax,
        rounding.upper(),
    )


def _few(found: set[float]) -> list[float]:
    return sorted(found)[:4]


def quantize(builder: Builder, layer: str, symbol: Symbol, q: Quantizer) -> Symbol:
    """The quantized symbol."""
    if isinstance(symbol, Clear):
        return _quantize_clear(symbol, q)
    if isinstance(symbol, TokenWise):
        return _quantize_token_wise(symbol, q)
    if isinstance(symbol, Unquantized):
        return _quantize_input(builder, layer, symbol, q)
    scale = np.broadcast_to(q.scale, symbol.shape)
    if isinstance(symbol, Affine):
        if _is_identity(builder, symbol, q):
            return Affine(symbol.var, scale, symbol.offset)
        lsbs = _rounded_lsbs(builder, symbol, q)
        if lsbs is not None:
            half = whole(np.floor(symbol.offset / symbol.scale + 2.0 ** (lsbs - 1)))
            shifted = builder.emit(AddConst, layer, (symbol.var,), value=compact(half))
            return affine(builder.emit(Round, layer, (shifted,), lsbs=lsbs), symbol.shape, scale)
    return affine(_table(builder, layer, symbol, q), symbol.shape, scale, -q.zero_point * scale)


def _quantize_clear(symbol: Clear, q: Quantizer) -> Clear:
    x = symbol.value
    if not np.isfinite(x).all():
        raise LoweringError("it quantizes constants that are NaN or infinite; mend the weights")
    scale, zero = np.broadcast_to(q.scale, x.shape), np.broadcast_to(q.zero_point, x.shape)
    ints = q.integers(x, scale, zero)
    value = ((ints - zero) * scale).astype(np.float32)
    return Clear(value, ints, scale, -zero * scale)


def _quantize_token_wise(symbol: TokenWise, q: Quantizer) -> TokenWise:
    x, shape = symbol.entries.value, symbol.shape
    own = np.broadcast_shapes(x.shape[1:], q.scale.shape, q.zero_point.shape)
    found = _quantize_clear(Clear(np.broadcast_to(x, (len(x), *own))), q)
    scale, zero = np.broadcast_to(q.scale, shape), np.broadcast_to(q.zero_point, shape)
    entries = Clear(found.value, found.ints, scale, -zero * scale)
    return TokenWise(symbol.source, symbol.positions, entries)


def _quantize_input(builder: Builder, layer: str, symbol: Unquantized, q: Quantizer) -> Symbol:
    coded = q.zero_point.size > 1 and symbol.shape == (*symbol.input_shape, 1)
    if q.scale.size != 1 or (q.zero_point.size != 1 and not coded):
        raise LoweringError(
            f"{layer}: the graph input '{symbol.name}' is quantized a channel; "
            "quantize it with one scale for the tensor"
        )
    if q.rounding != "ROUND":
        raise LoweringError(
            f"{layer}: the graph input '{symbol.name}' is quantized with rounding mode "
            f"{q.rounding}; use ROUND, which is what the client does"
        )
    scale, zero = q.scale.item(), q.zero_point.reshape(-1) if coded else q.zero_point.item()
    port = Port(
        symbol.name,
        (*symbol.input_shape, q.zero_point.size) if coded else symbol.input_shape,
        q.qmin,
        q.qmax,
        np.array(scale / symbol.scale),
        np.array(zero + symbol.offset / scale),
    )
    known = next((p for p in builder.inputs if p.name == port.name), None)
    if known is None:
        builder.add_input(port)
    elif (known.lo, known.hi, known.scale) != (port.lo, port.hi, port.scale) or not np.array_equal(
        known.zero_point, port.zero_point
    ):
        raise LoweringError(
            f"{layer}: the graph input '{symbol.name}' is read by two different quantizers; "
            "share one QuantIdentity"
        )
    result: Symbol = affine(port.name, port.shape, scale, -zero * scale)
    for move in () if coded else symbol.moves:
        result = moved(builder, layer, result, move)
    return result


def _is_identity(builder: Builder, x: Affine, q: Quantizer) -> bool:
    """Whether x's integers, shifted by whole numbers, already are the quantizer's."""
    if not np.allclose(x.scale, q.scale, rtol=1e-6, atol=0.0):
        return False
    shift = x.offset / x.scale + q.zero_point
    if np.any(np.abs(shift - np.rint(shift)) > 1e-4):
        return False
    reach = builder.ranges[x.var]
    shift = np.rint(shift)
    return bool(np.all(reach.lo + shift >= q.qmin) and np.all(reach.hi + shift <= q.qmax))


def _rounded_lsbs(builder: Builder, x: Affine, q: Quantizer) -> int | None:
    """k where the quantizer only drops x's k low bits, for no input in a tie; else None."""
    if q.rounding != "ROUND" or np.any(q.zero_point != 0) or np.any(x.scale <= 0):
        return None
    exponents = np.log2(q.scale / x.scale)
    if not np.all(np.abs(exponents) < LIMIT_BITS):
        return None
    lsbs = int(np.rint(exponents.flat[0]))
    if lsbs < 1 or np.any(np.abs(exponents - lsbs) > 1e-5):
        return None
    rest = x.offset / x.scale
    fraction = rest - np.floor(rest)
    if np.any(fraction < _TIE_MARGIN) or np.any(fraction > 1 - _TIE_MARGIN):
        return None
    reach = builder.ranges[x.var]
    half = whole(np.floor(rest + 2.0 ** (lsbs - 1)))
    if np.any((reach.lo + half) >> lsbs < q.qmin) or np.any((reach.hi + half) >> lsbs > q.qmax):
        return None
    return lsbs


def _check_width(layer: str, bits: int, limit: int, cure: str) -> None:
    if bits > limit:
        raise BitWidthError(
            f"{layer}: the table's input needs {bits} bits, the limit is {limit}; {cure}"
        )


def _table(builder: Builder, layer: str, x: Affine | Pending, q: Quantizer) -> str:
    """One table of the expression and the quantizer together."""
    roots = [x.var] if isinstance(x, Affine) else x.roots()
    if len(roots) > 2:
        raise LoweringError(
            f"{layer}: an element-wise function of {len(roots)} encrypted tensors; "
            "quantize after each product or sum of two, or give summed tensors one quantizer"
        )
    if not roots:
        raise LoweringError(f"{layer}: quantizes a value that no input reaches")
    var, integers, shift = _index(builder, layer, roots)
    var = broadcast_var(builder, layer, var, x.shape)

    scale, zero = np.broadcast_to(q.scale, x.shape), np.broadcast_to(q.zero_point, x.shape)
    keep = varying_index(x, scale, zero)
    rank = len(x.shape)
    refuse_size(scale[keep].shape, next(iter(integers.values())).size)
    grid = {name: v.reshape((-1,) + (1,) * rank) for name, v in integers.items()}
    real = np.asarray(evaluate(x, grid, x.shape, keep), np.float32)
    if np.isnan(real).any():
        at = {
            name: int(v[np.isnan(real).any(axis=tuple(range(1, rank + 1)))][0])
            for name, v in integers.items()
        }
        raise LoweringError(
            f"{layer}: the function is not a number for integer input {list(at.values())}; "
            "clamp its argument (a sum or a square can be 0 or negative there)"
        )
    columns = np.broadcast_to(
        q.integers(real, scale[keep][None], zero[keep][None]),
        (grid[roots[0]].shape[0], *scale[keep].shape),
    )
    flat = columns.reshape(columns.shape[0], -1)
    tables, which = np.unique(flat.T, axis=0, return_inverse=True)
    offset = which.reshape(scale[keep].shape).astype(np.int64) * flat.shape[0] + shift
    return builder.emit(
        Table, layer, (var,), offset=compact(offset), values=tables.ravel().astype(np.int64)
    )


def _index(builder: Builder, layer: str, roots: list[str]) -> tuple[str, dict[str, IntArray], int]:
    """The value a table looks up, every combination of root integers in its order, its shift."""
    spans = [(int(builder.ranges[r].lo.min()), int(builder.ranges[r].hi.max())) for r in roots]
    (lo, hi) = spans[0]
    bits = max(1, (hi - lo).bit_length())
    if len(roots) == 1:
        _check_width(
            layer,
            bits,
            MAX_BITS,
            "lower act_bit_width or weight_bit_width, or train with accumulator_bit_width=5",
        )
        return roots[0], {roots[0]: np.arange(lo, hi + 1)}, -lo
    lo2, hi2 = spans[1]
    bits2 = max(1, (hi2 - lo2).bit_length())
    _check_width(
        layer,
        bits + bits2,
        MAX_PACKED_BITS,
        "a function of two encrypted tensors packs both into one table: lower their bit widths, "
        "or, for a sum, give both the same quantizer",
    )
    first = np.arange(lo, lo + 2**bits)
    second = np.arange(lo2, hi2 + 1)
    scaled = builder.emit(Scale, layer, (roots[1],), factor=np.array(2**bits))
    packed = builder.emit(Add, layer, (roots[0], scaled))
    integers = {
        roots[0]: np.tile(first, second.size),
        roots[1]: np.repeat(second, first.size),
    }
    return packed, integers, -lo - lo2 * 2**bits
