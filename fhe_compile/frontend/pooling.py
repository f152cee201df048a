"""ONNX pooling and maxima on symbols: sums with a scale, and `Max` of the program.

Of a maximum, each axis is done by itself, and along an axis pairs first: as many comparisons as
there are numbers less one, fewer where windows overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.arithmetic import need_quantized, reduce
from torusformer.fhe_compile.frontend.layout import concat, reshape_to, slice_by
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Pending,
    Pooled,
    Symbol,
    moved,
    refuse_size,
    uniform,
)
from torusformer.fhe_compile.frontend.windows import Window, pad, unfold, windows_of
from torusformer.fhe_compile.program.nodes import Max, Scale

Pool = Callable[[Builder, str, Symbol], Symbol]
_NARROW_BITS = 4  # numbers up to this are compared at once, wider ones once a quantizer read them


def average_pool(builder: Builder, layer: str, x: Symbol | None, attr: dict[str, Any]) -> Affine:
    """AveragePool: the sum of each window, at a scale that has its count in it."""
    x = need_quantized(x, "its input")
    windows = windows_of(attr, x.shape[2:], attr["kernel_shape"])
    if attr.get("count_include_pad", 0) and attr.get("ceil_mode", 0):
        plain = windows_of({**attr, "ceil_mode": 0}, x.shape[2:], attr["kernel_shape"])
        if windows != plain:
            raise LoweringError(
                "ceil_mode with count_include_pad, of which runtimes differ; leave one of them out"
            )
    refuse_size((x.shape[1], *(w.count for w in windows)))
    axes = tuple(range(2, len(x.shape)))
    if not uniform(x.scale, axes):
        raise LoweringError("its input has scales that differ within a window; use one scale")
    counts = _counts(x.shape[2:], windows, padded=bool(attr.get("count_include_pad", 0)))
    places = int(np.prod([w.size for w in windows]))
    before, after = ((0, 0, *(getattr(w, n) for w in windows)) for n in ("before", "after"))
    columns = unfold(builder, layer, pad(builder, layer, x, before, after, 0.0), windows)
    shape = (columns.shape[0], places, x.shape[1], *columns.shape[2:])
    spread = moved(builder, layer, columns, reshape_to(layer, shape))
    total = reduce(builder, layer, "ReduceSum", spread, (1,), keepdims=False)
    return Affine(total.var, total.scale / counts, total.offset / counts)


def _counts(spatial: Sequence[int], windows: Sequence[Window], *, padded: bool) -> np.ndarray:
    """How many places of each window count, (*counts)."""
    total = np.ones(())
    for n, w in zip(spatial, windows, strict=True):
        size = n + max(0, w.before) + max(0, w.after)
        inside = np.full(size, padded)
        inside[max(0, w.before) : max(0, w.before) + n] = True
        inside = inside[max(0, -w.before) : size - max(0, -w.after)]
        along = sum(inside[w.place(i)].astype(np.float64) for i in range(w.size))
        total = np.multiply.outer(total, along)
    if (total == 0).any():
        raise LoweringError("a window of padding alone has no average")
    return total


def global_average(builder: Builder, layer: str, x: Symbol | None) -> Affine:
    """GlobalAveragePool."""
    x = need_quantized(x, "its input")
    return reduce(builder, layer, "ReduceMean", x, tuple(range(2, len(x.shape))), keepdims=True)


def max_pool(builder: Builder, layer: str, x: Symbol | None, attr: dict[str, Any]) -> Symbol:
    """MaxPool: at once where the numbers are narrow, else as soon as a quantizer read them."""
    if attr.get("storage_order", 0):
        raise LoweringError("storage_order counts places for indices, which are not computed")
    if not isinstance(x, Affine | Pending):
        x = need_quantized(x, "its input")
    windows = windows_of(attr, x.shape[2:], attr["kernel_shape"])
    refuse_size((x.shape[1], *(w.count for w in windows)))

    def pool(b: Builder, where: str, inner: Symbol) -> Symbol:
        return _largest_of_windows(b, where, need_quantized(inner, "its input"), windows)

    return _waiting(builder, layer, x, pool, (*x.shape[:2], *(w.count for w in windows)))


def maximum_over(
    builder: Builder, layer: str, x: Symbol | None, axes: Sequence[int], keepdims: bool
) -> Symbol:
    """ReduceMax, and GlobalMaxPool over all but two axes."""
    if not isinstance(x, Affine | Pending):
        x = need_quantized(x, "its input")
    rank = len(x.shape)
    over = sorted({a % rank for a in axes}) if axes else list(range(rank))
    kept = tuple(1 if i in over else n for i, n in enumerate(x.shape))
    shape = kept if keepdims else tuple(n for i, n in enumerate(x.shape) if i not in over)

    def pool(b: Builder, where: str, inner: Symbol) -> Symbol:
        found = _ordered(b, where, need_quantized(inner, "its input"), over)
        for axis in over:
            found = _halves(b, where, found, axis)
        return moved(b, where, found, reshape_to(where, shape))

    apart = keepdims and min(over) > 1
    return _waiting(builder, layer, x, pool, shape, channels=apart)


def _waiting(
    builder: Builder,
    layer: str,
    x: Affine | Pending,
    pool: Pool,
    shape: tuple[int, ...],
    *,
    channels: bool = True,
) -> Symbol:
    if isinstance(x, Affine) and builder.ranges[x.var].span_bits <= _NARROW_BITS:
        axes = tuple(range(2, len(x.shape)))
        if not channels or (uniform(x.scale, axes) and uniform(x.offset, axes)):
            return pool(builder, layer, x)
    return Pooled(x, pool, shape, channels)


def at_once(builder: Builder, layer: str, symbol: Symbol | None) -> Symbol | None:
    """What is pooled, for a reader that is no function of each number that grows."""
    if isinstance(symbol, Pooled) and isinstance(symbol.inner, Affine):
        return symbol.pool(builder, layer, symbol.inner)
    return symbol


def _ordered(builder: Builder, layer: str, x: Affine, axes: Sequence[int]) -> Affine:
    """x with integers that compare as the numbers do along these axes."""
    if not uniform(x.scale, tuple(axes)) or not uniform(x.offset, tuple(axes)):
        raise LoweringError(
            "it compares numbers of different scales or offsets; give them one quantizer"
        )
    if (x.scale > 0).all():
        return x
    sign = np.where(x.scale > 0, 1, -1)
    for axis in range(sign.ndim):
        first = np.take(sign, [0], axis=axis)
        sign = first if (sign == first).all() else sign
    return Affine(builder.emit(Scale, layer, (x.var,), factor=sign), np.abs(x.scale), x.offset)


def _largest_of_windows(
    builder: Builder, layer: str, x: Affine, windows: Sequence[Window]
) -> Affine:
    x = _ordered(builder, layer, x, range(2, len(x.shape)))
    before, after = ((0, 0, *(getattr(w, n) for w in windows)) for n in ("before", "after"))
    x = pad(builder, layer, x, before, after, None)
    for axis, window in enumerate(windows, 2):
        if (window.size, window.stride) == (1, 1):
            continue
        parts = [
            moved(builder, layer, x, slice_by(layer, x.shape, {axis: window.place(i)}))
            for i in range(window.size)
        ]
        while len(parts) > 1:
            parts = [_larger(builder, layer, *parts[i : i + 2]) for i in range(0, len(parts), 2)]
        x = need_quantized(parts[0], "its input")
    return x


def _larger(builder: Builder, layer: str, x: Symbol, y: Symbol | None = None) -> Symbol:
    if y is None:
        return x
    assert isinstance(x, Affine) and isinstance(y, Affine)
    return Affine(builder.emit(Max, layer, (x.var, y.var)), x.scale, x.offset)


def _halves(builder: Builder, layer: str, x: Affine, axis: int) -> Affine:
    """The largest along an axis, which stays with length 1: one half against the other."""
    while x.shape[axis] > 1:
        n = x.shape[axis]
        half = n // 2
        left, right = (
            moved(builder, layer, x, slice_by(layer, x.shape, {axis: slice(a, a + half)}))
            for a in (0, half)
        )
        found = _larger(builder, layer, left, right)
        if n % 2:
            rest = moved(builder, layer, x, slice_by(layer, x.shape, {axis: slice(n - 1, n)}))
            found = concat(builder, layer, [found, rest], axis)
        x = need_quantized(found, "its input")
    return x
