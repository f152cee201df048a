"""ONNX `Conv` on symbols: slices laid side by side, then a product with a clear matrix.

What is padded is the real number 0, whatever integer or offset that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.arithmetic import linear, need_quantized
from torusformer.fhe_compile.frontend.grids import on_grid
from torusformer.fhe_compile.frontend.layout import in_turn, reshape_to, transpose_by
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Clear,
    Movement,
    Symbol,
    affine,
    moved,
    refuse_size,
    uniform,
    whole,
)
from torusformer.fhe_compile.frontend.windows import MAX_WINDOW, Window, pad, unfold, windows_of
from torusformer.fhe_compile.program.nodes import Scale, Sum


def convolution(
    builder: Builder, layer: str, args: Sequence[Symbol | None], attr: dict[str, Any]
) -> Affine:
    """Conv of a quantized tensor (1, C, *spatial) with constant weights (OC, C / groups, *kernel).

    Raises:
        LoweringError: a weight on no grid, channels whose scales do not meet, a window that fits
            nowhere.
    """
    x = need_quantized(args[0], "its input")
    weight, bias = _weight(args[1]), args[2] if len(args) > 2 else None
    channels, groups = x.shape[1], int(attr.get("group", 1))
    outputs, own, *kernel = weight.shape
    if len(x.shape) != len(weight.shape) or groups < 1 or own * groups != channels:
        raise LoweringError(f"weights {weight.shape} in {groups} groups for {x.shape}")
    if outputs % groups:
        raise LoweringError(f"{outputs} channels in {groups} groups")
    windows = windows_of(attr, x.shape[2:], kernel)
    refuse_size((outputs, *(w.count for w in windows)), int(np.prod(kernel)))
    if all(w.count == 1 and w.dilation == 1 for w in windows) and groups == 1:
        result = _one_window(builder, layer, x, weight, windows)
    else:
        x = pad(
            builder,
            layer,
            x,
            (0, 0, *(w.before for w in windows)),
            (0, 0, *(w.after for w in windows)),
            0.0,
        )
        columns = unfold(builder, layer, x, windows)
        if groups == channels == outputs and groups > 1:
            result = _depthwise(builder, layer, columns, weight)
        else:
            result = _product(builder, layer, columns, weight, groups)
    if bias is None:
        return result
    if not isinstance(bias, Clear) or bias.value.size != outputs:
        raise LoweringError(f"its bias is no constant of {outputs} numbers")
    shift = bias.value.astype(np.float64).reshape(-1, *(1 for _ in windows))
    return affine(result.var, result.shape, result.scale, result.offset + shift)


def transposed_convolution(
    builder: Builder, layer: str, args: Sequence[Symbol | None], attr: dict[str, Any]
) -> Affine:
    """ConvTranspose: a convolution of the tensor with zeros between its places."""
    x = need_quantized(args[0], "its input")
    weight, groups = args[1], int(attr.get("group", 1))
    rank = len(x.shape) - 2
    plain = attr.get("auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET") and "output_shape" not in attr
    if not isinstance(weight, Clear) or len(weight.shape) != rank + 2 or not plain or groups != 1:
        raise LoweringError(
            "a ConvTranspose of constant weights, without groups, auto_pad and output_shape is "
            "supported; use explicit pads"
        )
    strides = attr.get("strides", [1] * rank)
    dilations = attr.get("dilations", [1] * rank)
    pads = attr.get("pads", [0] * 2 * rank)
    more = attr.get("output_padding", [0] * rank)
    if not all(1 <= s <= MAX_WINDOW for s in strides):
        raise LoweringError(f"its strides are {list(strides)[:8]}")
    apart = (*x.shape[:2], *(n for size in x.shape[2:] for n in (size, 1)))
    zeros = [0, 0, *(n for s in strides for n in (0, s - 1))]
    symbol = moved(builder, layer, x, reshape_to(layer, apart))
    spread = pad(builder, layer, need_quantized(symbol, ""), [0] * len(zeros), zeros, 0.0)
    joined = (*x.shape[:2], *(n * s for n, s in zip(x.shape[2:], strides, strict=True)))
    flat = moved(builder, layer, spread, reshape_to(layer, joined))
    reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilations, strict=True)]
    ends = zip(reach, pads[rank:], strides, more, strict=True)
    around = [
        *(r - p for r, p in zip(reach, pads[:rank], strict=True)),
        *(r - p - (s - 1) + m for r, p, s, m in ends),
    ]
    turn = in_turn(transpose_by(layer, (1, 0, *range(2, rank + 2))), _flipped(rank))
    kernel = moved(builder, layer, weight, turn)
    given = [flat, kernel, *args[2:]]
    return convolution(builder, layer, given, {"pads": around, "dilations": dilations})


def _flipped(rank: int) -> Movement:
    """Of constants: every spatial axis from its end."""
    index = (slice(None), slice(None), *(slice(None, None, -1) for _ in range(rank)))
    return Movement(lambda a: a[index], lambda _, v: v)


def _weight(symbol: Symbol | None) -> Clear:
    """The weight on its grid, zero points in the integers."""
    found = on_grid(symbol, 0) if isinstance(symbol, Clear) else None
    if found is None or found.ints is None or found.scale is None or found.offset is None:
        raise LoweringError(
            "its weight is no quantized constant; use a Brevitas layer with weight_bit_width"
        )
    zero = found.offset / found.scale
    if np.any(np.abs(zero - np.rint(zero)) > 1e-4):
        raise LoweringError("its weight has a zero point that is no whole number; use 0")
    ints = found.ints + whole(np.rint(zero))
    return Clear(found.value, ints, found.scale, np.zeros(found.shape))


def _matrix(weight: Clear, groups: int) -> Clear:
    """(places * C, OC): the rows as `unfold` orders its channels, 0 between groups."""
    outputs, own, *kernel = weight.shape
    assert weight.ints is not None and weight.scale is not None
    refuse_size((groups * own * int(np.prod(kernel)), outputs))
    order = (*range(len(kernel) + 1, 1, -1), 1, 0)
    ints = np.zeros((outputs, groups, own, *kernel), np.int64)
    scale = np.repeat(weight.scale[:, None], groups, axis=1)
    group = np.repeat(np.arange(groups), outputs // groups)
    ints[np.arange(outputs), group] = weight.ints
    wide = (outputs, groups * own, *kernel)
    rows = int(np.prod(wide[1:]))
    return _clear(*(a.reshape(wide).transpose(order).reshape(rows, -1) for a in (ints, scale)))


def _clear(ints: np.ndarray, scale: np.ndarray) -> Clear:
    return Clear(ints * scale, ints, scale, np.zeros(ints.shape))


def _product(builder: Builder, layer: str, columns: Affine, weight: Clear, groups: int) -> Affine:
    """Channels last, times the matrix, channels first again."""
    rank = len(columns.shape)
    last = transpose_by(layer, (0, *range(2, rank), 1))
    rows = moved(builder, layer, columns, last)
    found = linear(builder, layer, rows, _matrix(weight, groups))
    first = transpose_by(layer, (0, rank - 1, *range(1, rank - 1)))
    return moved(builder, layer, found, first)  # type: ignore[return-value]


def _one_window(
    builder: Builder, layer: str, x: Affine, weight: Clear, windows: Sequence[Window]
) -> Affine:
    """A kernel that covers its input: a linear layer, of which the padding sees nothing."""
    inside = []
    x_index: list[slice] = [slice(None)] * 2
    for window, n in zip(windows, x.shape[2:], strict=True):
        first = max(0, window.before)
        inside.append(slice(first, min(window.size, window.before + n)))
        start = max(0, -window.before)
        x_index.append(slice(start, start + inside[-1].stop - first))
    index = (slice(None), slice(None), *inside)
    assert weight.ints is not None and weight.scale is not None
    ints, scale = (a[index].reshape(weight.shape[0], -1).T for a in (weight.ints, weight.scale))
    cut = pad(
        builder,
        layer,
        x,
        [-(s.start or 0) for s in x_index],
        [(s.stop - n if s.stop is not None else 0) for s, n in zip(x_index, x.shape, strict=True)],
        0.0,
    )
    flat = moved(builder, layer, cut, reshape_to(layer, (x.shape[0], ints.shape[0])))
    found = linear(builder, layer, flat, _clear(ints, scale))
    shape = (*found.shape, *(1 for _ in windows))
    return moved(builder, layer, found, reshape_to(layer, shape))  # type: ignore[return-value]


def _depthwise(builder: Builder, layer: str, columns: Affine, weight: Clear) -> Affine:
    """A kernel a channel: each place times its clear number, and the sum over places."""
    assert weight.ints is not None and weight.scale is not None
    outputs, _, *kernel = weight.shape
    places = int(np.prod(kernel))
    counts = columns.shape[2:]
    shape = (columns.shape[0], places, outputs, *counts)
    spread = moved(builder, layer, columns, reshape_to(layer, shape))
    assert isinstance(spread, Affine)

    def factors(a: np.ndarray) -> np.ndarray:
        order = (*range(len(kernel) + 1, 1, -1), 1, 0)
        return a.transpose(order).reshape(1, places, outputs, *(1 for _ in counts))

    ints, unit = factors(weight.ints), spread.scale * factors(weight.scale)
    if not uniform(unit, (1,)):
        raise LoweringError("its scales differ within a window; use one scale a channel")
    var = builder.emit(Scale, layer, (spread.var,), factor=ints)
    var = builder.emit(Sum, layer, (var,), axes=(1,), keepdims=False)
    offset = (spread.offset * ints * factors(weight.scale)).sum(axis=1)
    return Affine(var, unit[:, 0], offset)
