"""A sum of non-negative numbers in, its logarithm between two ends on a grid out: a clip.

Several such windows, each read from a sum of its own, put a logarithm together that spans more
than one narrow table reads:

    log S = w_0(S) + w_1(S) + …

w_0 is the logarithm up to the first end and constant above, w_j what it gains from there to the
next.

Worked example, not yet on a grid: with ends 32 and 256, S = 100 is log 32 + (log 100 − log 32).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torusformer.fhe_compile.frontend.decompose.rewriter import Rewriter


@dataclass(frozen=True)
class LogGrid:
    """factor · log(x) + shift in whole multiples of `step`, from 0 to `most` of them."""

    step: float
    factor: float = 1.0
    shift: float = 0.0
    least: float = -math.inf
    most: float = math.inf

    def at(self, x: float) -> int:
        """The multiple for one number."""
        found = (self.factor * math.log(x) + self.shift) / self.step
        return round(min(max(found, self.least), self.most))


def log_window(
    graph: Rewriter, total: str, ends: tuple[float, float], grid: LogGrid, *, first: bool = True
) -> str:
    """Put the logarithm of a tensor between two numbers, constant outside.

    All but the `first` of several windows say what it has gained from the lower end.
    """
    low, high = ends
    least, most = grid.at(low), grid.at(high)
    before = 0 if first else least
    log = graph.emit("Log", graph.emit("Min", graph.emit("Max", total, low), high))
    if grid.factor != 1:
        log = graph.emit("Mul", log, grid.factor)
    shifted = graph.emit("Add", log, grid.shift - before * grid.step)
    bounded = graph.emit("Min", shifted, (most - before) * grid.step)
    bits = max(1, (most - least).bit_length())
    return graph.quant(bounded, grid.step, bits, signed=False, zero=before - least)
