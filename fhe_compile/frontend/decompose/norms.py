"""A float layer norm or RMS norm in, tables of one value each out.

y = (x − mean) / σ is a function of two encrypted numbers. Their logarithms are added instead: the
sign and magnitude of c = x − mean become one code, from which that of σ is taken,

    code(c) = ⌊log(|c| / least) / step⌉ in 0 … m − 1, and more by `gap` where c < 0
    code(σ) = ⌊log(σ / σ_least) / step⌉ in 0 … s − 1
    y       = table(code(c) − code(σ))

so what ends the norm reads 2 (m + s − 1) integers, `norm_bits` bits, gain and bias included.

Worked example: step log 2, least 1, σ_least 1, m = 4, s = 2, gap 5: c = −4 is 2 + 5 = 7, σ = 2
is 1, and 6 is read as −2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.frontend.decompose.grids import grid_with, numbers
from torusformer.fhe_compile.frontend.decompose.logarithm import LogGrid, log_window
from torusformer.fhe_compile.frontend.decompose.rewriter import WIDE, Rewriter, shape_of
from torusformer.fhe_compile.frontend.symbols import FloatArray

RESOLUTION, WINDOW = 24, 112  # units in which the smallest σ² is read, and the largest at most
_LARGEST = 5.0  # times the largest σ²: squares beyond count as that
_MARGIN = np.array((0.95, 1.05))  # beyond the σ of samples
_STEPS = np.geomspace(0.04, 0.7, 24)
_MOST_ROWS = 4_000


@dataclass(frozen=True)
class _Codes:
    """Of magnitudes and of σ, `magnitudes` and `sigmas` many; σ of samples is in the `window`."""

    step: float
    least: float
    sigma_least: float
    magnitudes: int
    sigmas: int
    window: tuple[float, float]

    @property
    def gap(self) -> int:
        """More where c is negative: no code of a positive one, whatever σ is, comes so far."""
        return self.magnitudes + self.sigmas - 1

    @property
    def unit(self) -> float:
        """y of difference 0."""
        return self.least / self.sigma_least

    def normal(self, c: FloatArray, sigma: FloatArray) -> FloatArray:
        """y as the program will have it."""
        a = np.rint(np.log(np.maximum(np.abs(c), self.least) / self.least) / self.step)
        b = np.rint(np.log(np.maximum(sigma, 1e-30) / self.sigma_least) / self.step)
        power = a.clip(0, self.magnitudes - 1) - b.clip(0, self.sigmas - 1)
        return np.where(c < 0, -1, 1) * np.exp(power * self.step) * self.unit


def normalise(graph: Rewriter, name: str, epsilon: float, *, centred: bool) -> str:
    """Put (x − mean) / sqrt(variance + epsilon) along the last axis, an expression of one value."""
    bits = graph.precision.norm_bits
    graph.note("layer norm" if centred else "RMS norm", bits)
    true = graph.samples.of(name)
    if centred:
        true = true - true.mean(-1, keepdims=True)
    sigma = np.sqrt(np.square(true).mean(-1, keepdims=True) + epsilon)
    codes = _best(true.reshape(-1, true.shape[-1]), sigma.reshape(-1, 1), bits)
    x = graph.coded(name, graph.precision.stream_bits, "quantizer before a norm")
    step = codes.step * float(np.median(sigma))
    c = graph.emit("Sub", x, _mean(graph, x, step)) if centred else x

    negative = graph.emit("Less", c, -codes.least / 2)  # what is all but zero has no sign
    magnitude = graph.emit("Max", graph.emit("Abs", c), codes.least)
    log = graph.emit("Log", graph.emit("Div", magnitude, codes.least))
    bounded = graph.emit("Min", log, (codes.magnitudes - 1) * codes.step)
    jump = graph.emit("Where", negative, codes.gap * codes.step, 0.0)
    last = codes.gap + codes.magnitudes - 1
    coded = graph.quant(
        graph.emit("Add", bounded, jump), codes.step, last.bit_length(), signed=False
    )
    squared = c if graph.bits(c) <= graph.bits(coded) else _decoded(graph, coded, codes, 0)
    difference = graph.emit("Sub", coded, _sigma(graph, squared, epsilon, codes))
    found = _decoded(graph, difference, codes, codes.sigmas - 1)
    return graph.emit("Mul", found, 1 / codes.sigma_least)


def _decoded(graph: Rewriter, code: str, codes: _Codes, below: int) -> str:
    """The number behind a code of sign and magnitude, from which up to `below` was taken."""
    negative = graph.emit("Greater", code, (codes.gap - below - 0.5) * codes.step)
    power = graph.emit("Sub", code, graph.emit("Where", negative, codes.gap * codes.step, 0.0))
    size = graph.emit("Mul", graph.emit("Exp", power), codes.least)
    return graph.emit("Mul", size, graph.emit("Where", negative, -1.0, 1.0))


def _mean(graph: Rewriter, x: str, step: float) -> str:
    """Of the last axis, on the grid of x or a part of it that is at most about `step`."""
    scale, size = graph.scale(x), shape_of(graph.symbols[x])[-1]
    assert scale is not None, "a code has one"
    room = max(0, WIDE - 1 - graph.bits(x))
    parts = 2 ** max(0, min(room, round(np.log2(scale / step))))
    near = graph.rounded(graph.reduce("ReduceMean", x), (size // parts).bit_length() - 1)
    grid = grid_with(graph.samples.of(near), scale / parts, "a mean")
    return graph.quant(near, grid.scale, grid.bits, signed=grid.signed)


def _sigma(graph: Rewriter, c: str, epsilon: float, codes: _Codes) -> str:
    """The code of σ."""
    size = shape_of(graph.symbols[c])[-1]
    low, high = codes.window
    units = min(RESOLUTION, WINDOW * (low / high) ** 2)
    step = low**2 / units * size
    limit = _LARGEST * high**2 / step
    bits = max(2, min(8, int(np.log2(limit)) + 1))
    squares = graph.quant(graph.emit("Mul", c, c), step, bits, signed=False)
    total = graph.reduce("ReduceMean", squares)
    shift = -float(np.log(codes.sigma_least))
    log = LogGrid(codes.step, 0.5, shift, 0, codes.sigmas - 1)
    return log_window(graph, graph.emit("Add", total, epsilon), (low**2, high**2), log)


def _best(true: FloatArray, sigma: FloatArray, bits: int) -> _Codes:
    """The codes with the least squared error of y; rows x − mean (N, n), their σ (N, 1)."""
    pick = slice(None, None, -(-len(true) // _MOST_ROWS))
    true, sigma = true[pick], sigma[pick]
    numbers(true, "what a norm reads")
    exact = true / sigma
    top = float(np.quantile(np.abs(true), 0.999)) or 1.0
    low, high = np.quantile(sigma, (0.002, 0.998)) * _MARGIN
    middle = float(np.sqrt(low * high))
    ways = []
    for sigma_bits in range(1, bits - 1):
        sigmas = 2**sigma_bits
        magnitudes = 2 ** (bits - 1) - sigmas + 1
        for step in _STEPS:
            least = top * np.exp(-(magnitudes - 1) * step)
            start = middle * np.exp(-(sigmas - 1) / 2 * step)
            ends = max(low, start), min(high, middle**2 / start)
            sizes = float(step), float(least), float(start)
            ways.append(_Codes(*sizes, magnitudes, sigmas, ends))
    return min(ways, key=lambda codes: float(np.square(codes.normal(true, sigma) - exact).sum()))
