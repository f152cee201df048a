"""The windows of a convolution or pooling: where they lie, and a tensor laid out by them.

Tensors are (batch, channels, *spatial), as in ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.layout import slice_by
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Movement,
    moved,
    refuse_size,
    whole,
)
from torusformer.fhe_compile.program.nodes import Concat, Constant, IntArray

MAX_WINDOW = 2**12  # places of a window along one axis


@dataclass(frozen=True)
class Window:
    """Along one axis: `count` windows of `size` places `dilation` apart, `stride` from each other.

    `before` and `after` are places of padding, negative where the tensor is cut.
    """

    size: int
    stride: int
    dilation: int
    before: int
    after: int
    count: int

    @property
    def whole_axis(self) -> bool:
        """Whether one window without padding covers the axis, place by place."""
        return self.count == 1 and self.dilation == 1 and not (self.before or self.after)

    def place(self, i: int) -> slice:
        """Where the i-th place of every window lies on the padded axis."""
        start = i * self.dilation
        return slice(start, start + (self.count - 1) * self.stride + 1, self.stride)


def _numbers(attr: dict[str, Any], name: str, count: int, default: int, least: int) -> list[int]:
    found = [int(n) for n in attr.get(name, (default,) * count)]
    if len(found) != count or any(not least <= n <= MAX_WINDOW for n in found):
        raise LoweringError(f"its {name} are {found[:8]}; {count} from {least} to {MAX_WINDOW}")
    return found


def windows_of(
    attr: dict[str, Any], spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[Window, ...]:
    """The windows along each axis, from the attributes that convolutions and pools share."""
    rank = len(spatial)
    kernel = _numbers({"kernel_shape": kernel}, "kernel_shape", rank, 1, 1)
    strides = _numbers(attr, "strides", rank, 1, 1)
    dilations = _numbers(attr, "dilations", rank, 1, 1)
    pads = _numbers(attr, "pads", 2 * rank, 0, -MAX_WINDOW)
    auto = attr.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise LoweringError(f"auto_pad '{auto}' is unknown")
    found = []
    for axis, (n, k, s, d) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        reach = (k - 1) * d + 1
        before, after = pads[axis], pads[axis + rank]
        if auto == "VALID":
            before = after = 0
        elif auto != "NOTSET":
            total = max(0, (math.ceil(n / s) - 1) * s + reach - n)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after = total - before
        rest = n + before + after - reach
        if rest < 0:
            raise LoweringError(f"its window reaches over {reach} of {n + before + after} places")
        count = rest // s + 1
        if attr.get("ceil_mode", 0) and rest % s and count * s < n + before:
            after += s - rest % s  # one more window, past the end
            count += 1
        found.append(Window(k, s, d, before, after, count))
    return tuple(found)


def pad(
    builder: Builder,
    layer: str,
    x: Affine,
    before: Sequence[int],
    after: Sequence[int],
    value: float | None,
) -> Affine:
    """x with more places filled with `value`, or fewer, along each axis.

    None stands for what is no larger than anything in x. A value that is no integer of x travels as
    an offset, which the next table or sum takes in.
    """
    if any(min(b, 0) + min(a, 0) + n < 1 for n, b, a in zip(x.shape, before, after, strict=True)):
        raise LoweringError("its padding cuts off all that there is along an axis")
    cuts = {
        axis: slice(max(0, -b), n - max(0, -a))
        for axis, (n, b, a) in enumerate(zip(x.shape, before, after, strict=True))
    }
    x = moved(builder, layer, x, slice_by(layer, x.shape, cuts))  # type: ignore[assignment]
    widths = [(max(0, b), max(0, a)) for b, a in zip(before, after, strict=True)]
    if not any(b or a for b, a in widths):
        return x
    refuse_size(tuple(n + b + a for n, (b, a) in zip(x.shape, widths, strict=True)))
    scale, offset = np.pad(x.scale, widths, "edge"), np.pad(x.offset, widths, "edge")
    inside = np.pad(np.ones(x.shape, bool), widths)
    if value is None:
        fill = np.full(inside.shape, int(builder.ranges[x.var].lo.min()))
    else:
        steps = (value - offset) / scale
        if (np.abs(steps - np.rint(steps)) < 1e-4).all():
            fill = whole(np.rint(steps))
        else:
            fill = np.zeros(inside.shape, np.int64)
            offset = np.where(inside, offset, value)
    return Affine(_joined(builder, layer, x.var, fill, widths), scale, offset)


def _joined(
    builder: Builder, layer: str, var: str, fill: IntArray, widths: Sequence[tuple[int, int]]
) -> str:
    """The value with constants before and after it along each axis."""
    size = list(builder.ranges[var].shape)
    start = [b for b, _ in widths]
    for axis, (b, a) in enumerate(widths):
        if not (b or a):
            continue
        parts = []
        for place, width in ((0, b), (start[axis] + size[axis], a)):
            index = tuple(
                slice(place, place + width)
                if i == axis
                else slice(0 if i < axis else start[i], None if i < axis else start[i] + size[i])
                for i in range(len(size))
            )
            if width:
                parts.append(builder.emit(Constant, layer, (), value=fill[index].copy()))
        joined = [*parts[: 1 if b else 0], var, *parts[1 if b else 0 :]]
        var = builder.emit(Concat, layer, tuple(joined), axis=axis)
        size[axis] += b + a
    return var


def unfold_by(layer: str, shape: tuple[int, ...], axis: int, window: Window) -> Movement:
    """Movement that lays what stands at each place of the windows on `axis` behind one another.

    The result has `window.size` times the channels, those of the first place first.
    """
    places = [window.place(i) for i in range(window.size)]
    result = list(shape)
    result[1], result[axis] = shape[1] * window.size, window.count
    refuse_size(tuple(result))

    def array(a: np.ndarray) -> np.ndarray:
        index = [slice(None)] * len(shape)
        parts = []
        for place in places:
            index[axis] = place
            parts.append(a[tuple(index)])
        return np.concatenate(parts, axis=1)

    def emit(builder: Builder, var: str) -> str:
        parts = tuple(slice_by(layer, shape, {axis: p}).emit(builder, var) for p in places)
        return parts[0] if len(parts) == 1 else builder.emit(Concat, layer, parts, axis=1)

    return Movement(array, emit)


def unfold(builder: Builder, layer: str, x: Affine, windows: Sequence[Window]) -> Affine:
    """Padded x (1, C, *spatial) as (1, places * C, *counts): of the last axis' places first."""
    for i, window in enumerate(windows):
        if (window.size, window.stride) != (1, 1):
            move = unfold_by(layer, x.shape, i + 2, window)
            x = moved(builder, layer, x, move)  # type: ignore[assignment]
    return x
