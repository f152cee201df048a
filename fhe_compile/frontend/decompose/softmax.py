"""A float `Softmax` in, tables around sums out: exp(p − log Σ exp p).

p are the scores in `softmax_bits` bits, and the logarithm is on their grid: the difference is one
of integers. Scores below the window of p weigh nothing. Rows differ in their largest score by
factors that no narrow sum of exponentials spans, so there are several, of exponentials that
saturate: the sum whose terms all fit says the logarithm of the row (`logarithm`). How many is up
to the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.decompose.grids import numbers
from torusformer.fhe_compile.frontend.decompose.logarithm import LogGrid, log_window
from torusformer.fhe_compile.frontend.decompose.masks import without_mask
from torusformer.fhe_compile.frontend.decompose.rewriter import Rewriter, shape_of
from torusformer.fhe_compile.frontend.symbols import FloatArray

MOST_WINDOWS = 4
_FACTORS = (4.0, 8.0)  # from one window's end to the next
_SHARES = np.geomspace(1.0, 0.25, 9)  # of the range of scores, that p may span
_MOST_ROWS = 4_000
_ENOUGH = 1.15  # times the least squared error: one window less for that


@dataclass(frozen=True)
class _Grids:
    """p = unit · (q − zero), q of `bits` bits; windows end at `ends`, in units of exponentials.

    Exponentials of a window have `levels` steps up to its end.
    """

    unit: float
    zero: int
    bits: int
    levels: int
    ends: tuple[float, ...]

    def codes(self, scores: FloatArray) -> FloatArray:
        """p of scores."""
        q = np.clip(np.rint(scores / self.unit) + self.zero, 0, 2**self.bits - 1)
        return (q - self.zero) * self.unit

    def windows(self) -> list[tuple[float, float]]:
        """From where to where each sum says the logarithm."""
        starts = (0.5 * self.ends[0] / self.levels, *self.ends[:-1])
        return list(zip(starts, self.ends, strict=True))

    def shares(self, scores: FloatArray, seen: np.ndarray) -> FloatArray:
        """The softmax of rows (N, n), as the program will have it."""
        p, grid = self.codes(scores), LogGrid(self.unit)
        log = np.zeros((len(p), 1))
        for place, (low, high) in enumerate(self.windows()):
            step = high / self.levels
            terms = np.where(seen, np.rint(np.exp(p).clip(0, high) / step), 0)
            total = (terms.sum(-1, keepdims=True) * step).clip(low, high)
            log += np.rint(np.log(total) / self.unit) - (grid.at(low) if place else 0)
        return np.where(seen, np.exp(p - log * self.unit), 0).clip(0, 1)


def softmax(graph: Rewriter, name: str, axis: int, *, logarithm: bool = False) -> str:
    """Put the decomposed softmax of a tensor; the name of its result, an expression of one value.

    Raises:
        LoweringError: a row sees nothing, or scores are not finite on the samples.
    """
    bits = graph.precision.softmax_bits
    scores, seen = without_mask(graph, name)
    shape = shape_of(graph.symbols[name])
    values = graph.samples.of(scores)
    rows = np.moveaxis(np.broadcast_to(values, (len(values), *shape)), axis + 1, -1)
    mask = np.broadcast_to(np.moveaxis(seen, axis, -1), rows.shape)
    size = shape[axis]
    grids = _best(rows.reshape(-1, size), mask.reshape(-1, size), bits)
    graph.note("softmax", bits)

    p = graph.quant(graph.near(scores, grids.unit), grids.unit, bits, signed=False, zero=grids.zero)
    exponential = graph.emit("Exp", p)
    keep = None if seen.all() else np.asarray(seen, np.float32)
    if keep is not None:
        exponential = graph.emit("Mul", exponential, keep)
    log = ""
    for ends in grids.windows():
        step = ends[1] / grids.levels
        bounded = graph.emit("Min", exponential, ends[1])
        terms = graph.quant(bounded, step, grids.levels.bit_length(), signed=False)
        total = graph.reduce("ReduceSum", terms, axis)
        part = log_window(graph, total, ends, LogGrid(grids.unit), first=not log)
        log = graph.emit("Add", log, part) if log else part
    difference = graph.emit("Sub", p, log)
    if logarithm:
        return difference
    weights = graph.emit("Exp", difference)
    return weights if keep is None else graph.emit("Mul", weights, keep)


def _best(scores: FloatArray, seen: np.ndarray, bits: int) -> _Grids:
    """The grids with the least squared error of the softmax on rows (N, n)."""
    if not seen.any(axis=-1).all():
        raise LoweringError("a row of the softmax sees nothing; let each token see itself")
    pick = slice(None, None, -(-len(scores) // _MOST_ROWS))
    scores, seen = scores[pick], seen[pick]
    inside = numbers(scores[seen], "a score")
    top, low = float(inside.max()), float(inside.min())
    scores = np.where(seen, scores, low)
    largest = scores.max(axis=-1, where=seen, initial=low, keepdims=True)
    exact = np.where(seen, np.exp(scores - largest), 0)
    highest = float((np.log(exact.sum(-1, keepdims=True)) + largest).max())
    exact = exact / exact.sum(-1, keepdims=True)

    def tried(ways: list[_Grids]) -> tuple[float, _Grids]:
        errors = [float(np.square(way.shares(scores, seen) - exact).sum()) for way in ways]
        return min(zip(errors, ways, strict=True), key=lambda each: each[0])

    def grids(share: float, factor: float, count: int) -> _Grids:
        unit = max(share * (top - low), 1e-3) / (2**bits - 1)
        zero = 2**bits - 1 - round(top / unit)
        ends = np.exp(highest) * factor ** -np.arange(count - 1.0, -1, -1)
        return _Grids(unit, zero, bits, 2**bits - 1, tuple(float(end) for end in ends))

    found = [
        tried([grids(share, factor, count) for share in _SHARES for factor in _FACTORS])
        for count in range(1, MOST_WINDOWS + 1)
    ]
    enough = _ENOUGH * min(error for error, _ in found)
    return next(way for error, way in found if error <= enough)
