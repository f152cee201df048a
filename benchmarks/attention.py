"""Shapes and bit widths in; attention alone, as an integer program on encrypted q, k and v, out.

Queries, keys and values are inputs of shape (heads, T, d); the context leaves as the bare sum that
the client scales, as a linear layer would read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.frontend.symbols import Builder
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    IntArray,
    Port,
    Program,
    Reshape,
    Round,
    Sub,
    Sum,
    Table,
    Transpose,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """Low bits of a product that are left out, so that its sums stay narrow.

    `no_rows` leaves T(x) out too: what is then added is the same for a whole row, and softmax
    ignores it.
    """

    drop: int = 0
    no_rows: bool = False


@dataclass(frozen=True)
class AttentionConfig:
    """`bits` of q, k and v; what is kept of a score, of exp, of their sum and of a weight.

    `temperature` is the standard deviation of the logits for inputs drawn at random, so that a
    softmax is neither flat nor a maximum. `narrow` leaves out the lowest integer of q, k and v.
    """

    tokens: int = 8
    head_dim: int = 16
    heads: int = 2
    bits: int = 4
    score_bits: int = 6
    exp_bits: int = 6
    sum_bits: int = 6
    log_bits: int = 4
    weight_bits: int = 3
    score_cut: Cut = Cut()
    context_cut: Cut = Cut()
    temperature: float = 1.0
    narrow: bool = False

    @property
    def deviation(self) -> float:
        """Of an input drawn by `random_inputs`, in steps."""
        return float(2 ** (self.bits - 1)) / 2.5

    @property
    def score_step(self) -> float:
        """What one integer of q·k is worth before the softmax."""
        return self.temperature / (self.deviation**2 * math.sqrt(self.head_dim))

    @property
    def port_shape(self) -> tuple[int, int, int]:
        """Of q, k and v."""
        return (self.heads, self.tokens, self.head_dim)


class _Attention:
    """A builder with the three inputs and tables of float functions."""

    def __init__(self, config: AttentionConfig) -> None:
        self.config, self.builder = config, Builder()
        top = 2 ** (config.bits - 1)
        for name in "qkv":
            self.builder.add_input(Port(name, config.port_shape, config.narrow - top, top - 1))

    def span(self, value: str) -> tuple[int, int]:
        reach = self.builder.ranges[value]
        return int(reach.lo.min()), int(reach.hi.max())

    def table(self, layer: str, x: str, function: Callable[[IntArray], FloatArray]) -> str:
        """round(function(x)) for every x of the proved range.

        `function` may give several rows: one table for each element of the last axis.
        """
        lo, hi = self.span(x)
        values = np.rint(function(np.arange(lo, hi + 1))).astype(np.int64)
        starts = np.arange(values.size // (hi - lo + 1)) * (hi - lo + 1)
        offset = starts - lo if starts.size > 1 else np.array(-lo)
        return self.builder.emit(Table, layer, (x,), offset=offset, values=values.ravel())

    def rounded(self, layer: str, x: str, bits: int) -> tuple[str, int]:
        """The nearest multiple of 2^lsbs, over 2^lsbs, that has `bits` bits; and lsbs."""
        lo, hi = self.span(x)
        lsbs = max(0, (hi - lo).bit_length() - bits)
        while lsbs and ((hi + 2 ** (lsbs - 1)) >> lsbs) - ((lo + 2 ** (lsbs - 1)) >> lsbs) >= (
            2**bits
        ):
            lsbs += 1
        return self.shifted(layer, x, lsbs), lsbs

    def product(self, layer: str, x: str, y: str, cut: Cut) -> str:
        """x yᵀ over 2^drop, rounded: x (h, M, K), y (h, N, K), result (h, M, N).

        x y = T(x + y) - T(x) - T(y) with T(n) = n (n - 2c) / 2, as in `passes.products`. What
        is dropped inside a table costs nothing and leaves the sums narrower. The tables of
        neighbours along K round up at different fractions, so that equal terms lose nothing:
        floor(t) + floor(t + 1/2) = floor(2t).
        """
        (h, m, depth), (_, n, _) = (self.builder.ranges[name].shape for name in (x, y))
        (lo, hi), (lo_y, hi_y) = self.span(x), self.span(y)
        twice_centre = lo + lo_y + hi + hi_y
        phases = (np.arange(depth) + 0.5) % 2**cut.drop / 2**cut.drop if cut.drop else [0.5]

        def half_square(values: IntArray) -> FloatArray:
            whole = values * (values - twice_centre) / 2 / 2**cut.drop
            return np.floor(whole + np.reshape(phases, (-1, 1)))

        emit = self.builder.emit
        left = emit(Reshape, layer, (x,), shape=(h, m, 1, depth))
        right = emit(Reshape, layer, (y,), shape=(h, 1, n, depth))
        pairs = self.table(layer, emit(Add, layer, (left, right)), half_square)
        total = emit(Sum, layer, (pairs,), axes=(3,), keepdims=False)  # (h, M, N)
        for name, shape in ((x, (h, m, 1)), (y, (h, 1, n)))[cut.no_rows :]:
            alone = emit(
                Sum, layer, (self.table(layer, name, half_square),), axes=(2,), keepdims=False
            )
            total = emit(Sub, layer, (total, emit(Reshape, layer, (alone,), shape=shape)))
        return total

    def shifted(self, layer: str, x: str, lsbs: int) -> str:
        """The nearest whole number to x / 2^lsbs."""
        if not lsbs:
            return x
        half = self.builder.emit(AddConst, layer, (x,), value=np.array(2 ** (lsbs - 1)))
        return self.builder.emit(Round, layer, (half,), lsbs=lsbs)

    def program(self, context: str, scale: float) -> Program:
        lo, hi = self.span(context)
        port = Port(context, self.config.port_shape, lo, hi, np.array(scale))
        return Program(tuple(self.builder.inputs), (port,), tuple(self.builder.nodes))


def softmax_program(config: AttentionConfig) -> Program:
    """softmax(q kᵀ) v as exp(p - log Σ exp p): tables around one sum, and two products."""
    a = _Attention(config)
    scores = a.product("scores", "q", "k", config.score_cut)  # (h, T, T)
    rounded, lsbs = a.rounded("scores", scores, config.score_bits)
    # Logits in steps of `step`: as fine as the log has bits for its own range.
    deepest = math.log(config.tokens) + 3 * config.temperature
    step = deepest / 2 ** (config.log_bits - 1)
    unit = config.score_step * 2 ** (lsbs + config.score_cut.drop)
    top = 2 ** (config.log_bits - 1)
    logit = a.table("softmax", rounded, lambda n: np.clip(np.rint(n * unit / step), -top, top - 1))
    most = 2**config.exp_bits - 1
    largest = (top - 1) * step
    exp = a.table("softmax", logit, lambda n: most * np.exp(n * step - largest))
    total = a.builder.emit(Sum, "softmax", (exp,), axes=(2,), keepdims=True)  # (h, T, 1)
    total, dropped = a.rounded("softmax", total, config.sum_bits)

    def log(n: IntArray) -> FloatArray:
        sums = np.maximum(n * 2.0**dropped, 0.5) / most
        return np.clip(np.rint((np.log(sums) + largest) / step), -top, top + 2)

    logs = a.table("softmax", total, log)
    difference = a.builder.emit(Sub, "softmax", (logit, logs))
    one = 2**config.weight_bits - 1
    weights = a.table("softmax", difference, lambda n: np.clip(one * np.exp(n * step), 0, one))
    turned = a.builder.emit(Transpose, "context", ("v",), perm=(0, 2, 1))
    context = a.product("context", weights, turned, config.context_cut)
    return a.program(context, 2**config.context_cut.drop / one)


def inhibitor_program(config: AttentionConfig) -> Program:
    """H = Σ_j relu(v_j - Z_ij), Z_ij = Σ |q_i - k_j| over a scale (arXiv 2310.02041)."""
    a = _Attention(config)
    h, t, d = config.port_shape
    q = a.builder.emit(Reshape, "distances", ("q",), shape=(h, t, 1, d))
    k = a.builder.emit(Reshape, "distances", ("k",), shape=(h, 1, t, d))
    apart = a.builder.emit(Sub, "distances", (q, k))  # (h, T, T, d)
    distance = a.table("distances", apart, lambda n: np.abs(n).astype(np.float64))
    total = a.builder.emit(Sum, "distances", (distance,), axes=(3,), keepdims=False)
    total, lsbs = a.rounded("distances", total, config.score_bits)
    # A distance of two deviations a dimension inhibits the whole range of a value.
    most = 2**config.bits - 1
    unit = 2.0**lsbs * most / (2 * config.deviation * d)
    z = a.table("distances", total, lambda n: np.clip(n * unit, 0, most))
    z = a.builder.emit(Reshape, "context", (z,), shape=(h, t, t, 1))
    v = a.builder.emit(Reshape, "context", ("v",), shape=(h, 1, t, d))
    inhibited = a.builder.emit(Sub, "context", (v, z))  # (h, T, T, d)
    kept = a.table("context", inhibited, lambda n: np.maximum(n, 0).astype(np.float64))
    context = a.builder.emit(Sum, "context", (kept,), axes=(2,), keepdims=False)
    return a.program(context, 1.0)


def random_inputs(config: AttentionConfig, seed: int) -> dict[str, IntArray]:
    """q, k and v of normally distributed integers, clipped to their bits."""
    rng = np.random.default_rng(seed)
    top = 2 ** (config.bits - 1)

    def draw() -> IntArray:
        x = np.rint(rng.normal(0, config.deviation, config.port_shape))
        return np.clip(x, config.narrow - top, top - 1).astype(np.int64)

    return {name: draw() for name in "qkv"}


def softmax_reference(config: AttentionConfig, inputs: dict[str, IntArray]) -> FloatArray:
    """The context in floating point, in steps of v."""
    logits = inputs["q"] @ inputs["k"].transpose(0, 2, 1) * config.score_step
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    context: FloatArray = weights / weights.sum(-1, keepdims=True) @ inputs["v"]
    return context
