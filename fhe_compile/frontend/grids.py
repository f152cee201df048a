"""Real constants in, the integers and scales that they are multiples of out.

A quantizer leaves both. Where it was folded away, weights still lie on a grid; and where scales
differ along a summed axis, they may be small multiples of a common one.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from torusformer.fhe_compile.frontend.symbols import Clear, FloatArray, uniform
from torusformer.fhe_compile.program.nodes import IntArray

MAX_STEPS = 2**8  # of a grid, either side of zero
MAX_RATIO = 2**10  # of two scales that are brought together
_NEAR = 1e-3  # of a step: what float32 leaves of a multiple


def _common_divisor(a: float, b: float) -> float:
    """Of two positive numbers that are nearly multiples of it."""
    while b > _NEAR * a and b > 0:
        a, b = b, a % b
        b = min(b, abs(a - b))
    return a


def _step(values: np.ndarray) -> float | None:
    """That of which all values are multiples, by up to `MAX_STEPS`; None if there is none."""
    sizes = np.unique(np.abs(values[values != 0]).astype(np.float64))
    if not sizes.size:
        return 1.0
    if sizes.size > 4 * MAX_STEPS or not np.isfinite(sizes).all():
        return None
    step = reduce(_common_divisor, sizes[::-1].tolist())
    if step * MAX_STEPS < sizes[-1] * (1 - _NEAR):
        return None
    counts = np.rint(sizes / step)
    step = float((sizes @ counts) / (counts @ counts))  # the rounding of float32 evened out
    return step if (np.abs(sizes / step - counts) < _NEAR).all() else None


def on_grid(weight: Clear, axis: int | None) -> Clear | None:
    """The constant with its integers: of one scale, or of one for each place on `axis`; or None."""
    if weight.ints is not None:
        return weight
    value = weight.value.astype(np.float64)
    step = _step(value)
    if step is not None:
        steps: FloatArray = np.full(value.shape, step)
    elif axis is None:
        return None
    else:
        rows = [_step(row) for row in np.moveaxis(value, axis, 0)]
        if any(row is None for row in rows):
            return None
        place = tuple(-1 if i == axis % value.ndim else 1 for i in range(value.ndim))
        steps = np.broadcast_to(np.array(rows, np.float64).reshape(place), value.shape)
    ints = np.rint(value / steps).astype(np.int64)
    return Clear(weight.value, ints, steps, np.zeros(value.shape))


def product_scales(
    scale: FloatArray, ints: IntArray, weight: FloatArray
) -> tuple[IntArray, FloatArray] | None:
    """Weights and scales of x @ ints: scale (..., K) of x, weight (K, N) that of the integers.

    Where products of the two differ along the summed axis, the integers take the ratios in; None
    where these are not small.
    """
    if uniform(scale, (scale.ndim - 1,)) and uniform(weight, (0,)):
        return ints, scale[..., :1] * weight[0]
    if not uniform(scale, tuple(range(scale.ndim - 1))):
        return None
    each = scale.reshape(-1, scale.shape[-1])[0][:, None] * weight  # (K, N)
    used = ints != 0
    base = np.where(used, np.abs(each), np.inf).min(axis=0, initial=np.inf)
    base = np.where(np.isfinite(base), base, 1.0)
    for parts in range(1, 17):
        ratio = np.where(used, each * parts / base, 0.0)
        near = np.rint(ratio)
        if np.all(np.abs(ratio - near) <= 1e-5 * np.abs(near)) and np.abs(near).max() <= MAX_RATIO:
            found = (*scale.shape[:-1], ints.shape[1])
            return ints * near.astype(np.int64), np.broadcast_to(base / parts, found)
    return None
