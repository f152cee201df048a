"""A QONNX `Quant` node over a symbol in, integers of the program out.

QONNX's definition: q = clip(round(x / scale + zero_point), qmin, qmax), real = (q - zero_point) *
scale (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops). Over the program's
integers it becomes, cheapest first: nothing (the integers already are the quantizer's), a `Round`
(the scale is 2^k times the accumulator's), or a `Table`.
"""

from __future__ import annotations

import numpy as np

from torusformer import BitWidthError, LoweringError
from torusformer.fhe_compile.frontend.elementwise import evaluate, varying_index
from torusformer.fhe_compile.frontend.inputs import quantize_input
from torusformer.fhe_compile.frontend.quantizers import Quantizer, Truncation
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Clear,
    Pending,
    Pooled,
    Symbol,
    TokenWise,
    Unquantized,
    affine,
    broadcast_var,
    compact,
    refuse_size,
    whole,
)
from torusformer.fhe_compile.program.nodes import Add, AddConst, IntArray, Round, Scale, Table
from torusformer.fhe_compile.program.ranges import LIMIT_BITS

MAX_BITS = 16  # Concrete's widest table input
MAX_PACKED_BITS = 8  # widest table over two packed operands
_TIE_MARGIN = 0.01  # of one unit of the accumulator: far above float32's error, far below a half


def quantize(builder: Builder, layer: str, symbol: Symbol, q: Quantizer) -> Symbol:
    """The quantized symbol."""
    if isinstance(symbol, Clear):
        return _quantize_clear(symbol, q)
    if isinstance(symbol, TokenWise):
        return _quantize_token_wise(symbol, q)
    if isinstance(symbol, Unquantized):
        return quantize_input(builder, layer, symbol, q)
    if isinstance(symbol, Pooled):
        if not all(symbol.takes(part) for part in (q.scale, q.zero_point, *q.parameters)):
            raise LoweringError("its scales differ within a window; use one scale a channel")
        return symbol.pool(builder, layer, quantize(builder, layer, symbol.inner, q))
    scale = np.broadcast_to(q.scale, symbol.shape)
    if isinstance(symbol, Affine):
        if _is_identity(builder, symbol, q):
            return Affine(symbol.var, scale, symbol.offset)
        half = _before_rounding(builder, symbol, q)
        if half is not None:
            lsbs, steps = half
            shifted = builder.emit(AddConst, layer, (symbol.var,), value=compact(steps))
            var = builder.emit(Round, layer, (shifted,), lsbs=lsbs)
            return affine(var, symbol.shape, scale, -q.zero_point * scale)
    return affine(_table(builder, layer, symbol, q), symbol.shape, scale, -q.zero_point * scale)


def _quantize_clear(symbol: Clear, q: Quantizer) -> Clear:
    x = symbol.value
    if not np.isfinite(x).all():
        raise LoweringError("it quantizes constants that are NaN or infinite; mend the weights")
    scale, zero = np.broadcast_to(q.scale, x.shape), np.broadcast_to(q.zero_point, x.shape)
    ints = q.integers(x, *(np.broadcast_to(part, x.shape) for part in q.parameters))
    value = ((ints - zero) * scale).astype(np.float32)
    return Clear(value, ints, scale, -zero * scale)


def _quantize_token_wise(symbol: TokenWise, q: Quantizer) -> TokenWise:
    x, shape = symbol.entries.value, symbol.shape
    parts = (part.shape for part in q.parameters)
    own = np.broadcast_shapes(x.shape[1:], q.scale.shape, q.zero_point.shape, *parts)
    found = _quantize_clear(Clear(np.broadcast_to(x, (len(x), *own))), q)
    scale, zero = np.broadcast_to(q.scale, shape), np.broadcast_to(q.zero_point, shape)
    entries = Clear(found.value, found.ints, scale, -zero * scale)
    return TokenWise(symbol.source, symbol.positions, entries)


def _is_identity(builder: Builder, x: Affine, q: Quantizer) -> bool:
    """Whether x's integers, shifted by whole numbers, already are the quantizer's."""
    if not q.plain or not np.allclose(x.scale, q.scale, rtol=1e-6, atol=0.0):
        return False
    shift = x.offset / x.scale + q.zero_point
    if np.any(np.abs(shift - np.rint(shift)) > 1e-4):
        return False
    reach = builder.ranges[x.var]
    shift = np.rint(shift)
    return bool(np.all(reach.lo + shift >= q.qmin) and np.all(reach.hi + shift <= q.qmax))


def _before_rounding(builder: Builder, x: Affine, q: Quantizer) -> tuple[int, IntArray] | None:
    """k and what to add, where q is floor((integer + it) / 2^k) for every input; else None."""
    found = _truncated(x, q) if isinstance(q, Truncation) else _rounded(x, q)
    if found is None:
        return None
    lsbs, half = found
    reach = builder.ranges[x.var]
    if np.any((reach.lo + half) >> lsbs < q.qmin) or np.any((reach.hi + half) >> lsbs > q.qmax):
        return None
    return lsbs, half


def _power(ratio: np.ndarray) -> int | None:
    """k >= 1 where every ratio is 2^k."""
    exponents = np.log2(ratio)
    if not np.all(np.abs(exponents) < LIMIT_BITS):
        return None
    lsbs = int(np.rint(exponents.flat[0]))
    return lsbs if lsbs >= 1 and np.all(np.abs(exponents - lsbs) <= 1e-5) else None


def _rounded(x: Affine, q: Quantizer) -> tuple[int, IntArray] | None:
    """A `Quant` that only drops low bits, for no input in a tie."""
    if not q.plain or q.rounding not in ("ROUND", "HALF_EVEN"):
        return None
    if np.any(q.zero_point != 0) or np.any(x.scale <= 0):
        return None
    lsbs = _power(q.scale / x.scale)
    rest = x.offset / x.scale
    fraction = rest - np.floor(rest)
    if lsbs is None or np.any(fraction < _TIE_MARGIN) or np.any(fraction > 1 - _TIE_MARGIN):
        return None
    return lsbs, whole(np.floor(rest + 2.0 ** (lsbs - 1)))


def _truncated(x: Affine, q: Truncation) -> tuple[int, IntArray] | None:
    """A `Trunc` of the integers as they are, downwards."""
    if q.rounding != "FLOOR" or not np.allclose(x.scale, q.fine_scale, rtol=1e-6, atol=0.0):
        return None
    steps = x.offset / x.scale + q.fine_zero
    lsbs = _power(q.divisor)
    if lsbs is None or np.any(np.abs(steps - np.rint(steps)) > 1e-4):
        return None
    return lsbs, whole(np.rint(np.broadcast_to(steps, x.shape)))


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

    parts = [np.broadcast_to(part, x.shape) for part in q.parameters]
    keep = varying_index(x, *parts)
    rank = len(x.shape)
    kept = tuple(len(range(n)[cut]) for n, cut in zip(x.shape, keep, strict=True))
    refuse_size(kept, next(iter(integers.values())).size)
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
        q.integers(real, *(part[keep][None] for part in parts)),
        (grid[roots[0]].shape[0], *kept),
    )
    flat = columns.reshape(columns.shape[0], -1)
    tables, which = np.unique(flat.T, axis=0, return_inverse=True)
    offset = which.reshape(kept).astype(np.int64) * flat.shape[0] + shift
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
