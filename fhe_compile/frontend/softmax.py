"""A float `Softmax` in, tables around one sum out: exp(p − log Σ exp p).

p are the scores in `softmax_bits` bits. What is below the window of p weighs nothing. Rows differ:
the sum of exponentials spans more than one narrow table reads, so its logarithm is put together as

    log S = f_0(S) + f_1(S >> 3) + f_2(S >> 6) + …

f_0 is the logarithm up to `FIRST` and constant above, f_j what it gains from there to eight times as
much: each is a clip, which narrow tables read. A row costs a few bootstraps more, a score none.

Worked example, with natural logarithms not yet quantized: S = 100 is f_0 = log 32 and
f_1 = log(8 · 12) − log 32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.grids import numbers
from torusformer.fhe_compile.frontend.rewriter import Rewriter, shape_of
from torusformer.fhe_compile.frontend.symbols import Clear, FloatArray

FIRST, STEP = 32, 3  # sums that f_0 tells apart, bits between two f
EXP_BITS = range(4, 11)
UNSEEN = -1e4  # a score from here down, by a constant alone, is that of a mask
_BINS = np.geomspace(1.0, 0.25, 9)  # shares of the whole range of scores that p may have
_MOST_ROWS = 4_000


@dataclass(frozen=True)
class _Grids:
    """p = unit · (q − zero), q of `bits` bits; exponentials of `exp_bits`, 1 at the highest p."""

    unit: float
    zero: int
    bits: int
    exp_bits: int

    @property
    def top(self) -> float:
        return self.unit * (2**self.bits - 1 - self.zero)

    def levels(self, scores: FloatArray) -> FloatArray:
        q = np.clip(np.rint(scores / self.unit) + self.zero, 0, 2**self.bits - 1)
        return (q - self.zero) * self.unit

    def exponentials(self, p: FloatArray) -> FloatArray:
        """Whole numbers."""
        return np.rint(np.exp(p - self.top) * (2**self.exp_bits - 1))

    def shares(self, scores: FloatArray, seen: np.ndarray) -> FloatArray:
        """The softmax of rows (N, n), as the program will have it."""
        p = self.levels(scores)
        total = np.where(seen, self.exponentials(p), 0).sum(-1, keepdims=True)
        log = np.log((total + 0.5) / (2**self.exp_bits - 1)) + self.top
        return np.where(seen, np.exp(p - np.rint(log / self.unit) * self.unit), 0).clip(0, 1)


def softmax(graph: Rewriter, name: str, axis: int, *, logarithm: bool = False) -> str:
    """Put the decomposed softmax of a tensor; the name of its result, an expression of one value.

    Raises:
        LoweringError: a row sees nothing, or scores are not finite on the samples.
    """
    bits = graph.precision.softmax_bits
    scores, seen = _without_mask(graph, name)
    shape = shape_of(graph.symbols[name])
    rows = np.moveaxis(np.broadcast_to(graph.samples.of(scores), (len(graph.samples.of(scores)), *shape)), axis, -1)
    mask = np.moveaxis(np.broadcast_to(seen, shape), axis, -1)
    grids = _best(rows.reshape(-1, shape[axis]), np.broadcast_to(mask, rows.shape).reshape(-1, shape[axis]), bits)
    graph.note("softmax", bits)

    read = graph.rounded_to(scores, bits + 1)
    p = graph.quant(read, grids.unit, bits, signed=False, zero=grids.zero)
    share = graph.emit("Exp", graph.emit("Sub", p, grids.top))
    keep = None if seen.all() else np.asarray(seen, np.float32)
    exponentials = graph.quant(
        share if keep is None else graph.emit("Mul", share, keep),
        1 / (2**grids.exp_bits - 1),
        grids.exp_bits,
        signed=False,
    )
    total = graph.reduce("ReduceSum", exponentials, axis)
    difference = graph.emit("Sub", p, _logarithm(graph, total, grids, shape[axis]))
    if logarithm:
        return difference
    weights = graph.emit("Exp", difference)
    return weights if keep is None else graph.emit("Mul", weights, keep)


def _logarithm(graph: Rewriter, total: str, grids: _Grids, terms: int) -> str:
    """Of the sum of exponentials, on the grid of p."""
    one = 2**grids.exp_bits - 1  # units of the sum
    most = terms * one
    zero = grids.zero  # of the grid: log S is between that of half a unit and that of all terms
    unit = grids.unit

    def on_grid(expression: str, lowest: float, highest: float) -> str:
        least = math.floor(lowest / unit)
        span = math.ceil(highest / unit) - least
        return graph.quant(expression, unit, max(1, span.bit_length()), signed=False, zero=-least)

    reach = min(FIRST, most)
    bounded = graph.emit("Min", total, reach / one)
    log = graph.emit("Log", graph.emit("Add", bounded, 0.5 / one))
    ends = [math.log(0.5 / one) + grids.top, math.log((reach + 0.5) / one) + grids.top]
    found = on_grid(graph.emit("Add", log, grids.top), *ends)
    del zero
    lsbs = 0
    while reach < most:
        lsbs += STEP
        next_reach = min(reach << STEP, most)
        coarse = graph.rounded(total, lsbs)
        window = graph.emit("Max", graph.emit("Min", coarse, next_reach / one), reach / one)
        start = round((math.log((reach + 0.5) / one) + grids.top) / unit) * unit - grids.top
        gained = graph.emit("Sub", graph.emit("Log", window), start)
        part = on_grid(gained, -unit, math.log(next_reach / reach) + unit)
        found = graph.emit("Add", found, part)
        reach = next_reach
    return found


def _best(scores: FloatArray, seen: np.ndarray, bits: int) -> _Grids:
    """The grids with the least squared error of the softmax on rows (N, n)."""
    if not seen.any(axis=-1).all():
        raise LoweringError("a row of the softmax sees nothing; let each token see itself")
    pick = slice(None, None, -(-len(scores) // _MOST_ROWS))
    scores, seen = scores[pick], seen[pick]
    inside = numbers(scores[seen], "a score")
    top, low = float(inside.max()), float(inside.min())
    exact = np.exp(np.where(seen, scores, -np.inf) - scores.max(axis=-1, where=seen, initial=low, keepdims=True))
    exact = exact / exact.sum(-1, keepdims=True)

    def error(grids: _Grids) -> float:
        return float(np.square(grids.shares(np.where(seen, scores, low), seen) - exact).sum())

    found = []
    for share in _BINS:
        unit = max(share * (top - low), 1e-3) / (2**bits - 1)
        zero = 2**bits - 1 - round(top / unit)
        ways = [_Grids(unit, zero, bits, exp_bits) for exp_bits in EXP_BITS]
        errors = [error(way) for way in ways]
        enough = next(i for i, e in enumerate(errors) if e <= 1.02 * min(errors))
        found.append((errors[enough], ways[enough]))
    return min(found, key=lambda each: each[0])[1]


def _without_mask(graph: Rewriter, name: str) -> tuple[str, np.ndarray]:
    """Scores before a mask of constants, and which of them are seen, (*shape)."""
    shape = shape_of(graph.symbols[name])
    node = next((n for n in reversed(graph.made) if name in n.output), None)
    if node is None:
        return name, np.ones(shape, bool)
    clear = {i: graph.symbols[n] for i, n in enumerate(node.input) if n}
    constant = {
        i: np.broadcast_to(s.value, np.broadcast_shapes(s.shape, shape))
        for i, s in clear.items()
        if isinstance(s, Clear)
    }
    if node.op_type == "Add" and len(constant) == 1:
        ((at, value),) = constant.items()
        unseen = value <= UNSEEN
        if unseen.any():
            rest = np.where(unseen, 0, value)
            other = node.input[1 - at]
            if shape_of(graph.symbols[other]) != shape:
                other = graph.emit("Expand", other, graph.constant(shape, np.int64))
            kept = graph.emit("Add", other, rest) if rest.any() else other
            inner, seen = _without_mask(graph, kept)
            return inner, seen & ~unseen
    if node.op_type == "Where" and 0 in constant and len(constant) == 2:
        at = 1 if 1 in constant else 2
        unseen = (constant[0].astype(bool) == (at == 1)) & (constant[at] <= UNSEEN)
        if unseen.any() and (constant[0].astype(bool) != (at == 1)).any():
            other = node.input[3 - at]
            chosen = constant[0].astype(bool) == (at == 1)
            if (unseen == chosen).all():
                if shape_of(graph.symbols[other]) != shape:
                    other = graph.emit("Expand", other, graph.constant(shape, np.int64))
                inner, seen = _without_mask(graph, other)
                return inner, seen & ~unseen
    return name, np.ones(shape, bool)
