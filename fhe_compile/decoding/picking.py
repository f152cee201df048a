"""Logits in, the next token out: how a decoder goes on without anyone who could read them.

The largest of logits + noise is the next token. Noise is what makes it a choice: argmax of
logits + T * Gumbel noise is a sample at temperature T (Gumbel 1954; arXiv 1611.01144), and the same
shift on every logit is greedy.

Logits are wide sums, and a maximum is dear in every bit. But a decoder that is trained to give
normalised logits (log-probabilities, nearly) has its largest one close under zero: a window of
`Window.levels` levels there is told apart, what is lower counts as lowest and what is higher as
highest. Of equal levels the first wins. Who picks in the clear reads the same window, so that
either way gives the same text.

Logits in coarse units are read modulo a ring instead (`fhe_compile.program.antiperiod`). Its upper
half is up to `TOP` nats and holds the window; the lower half reads the levels of the upper one
negated, which antiperiodic tables must, and what is negative is below every level of the window.
So one narrow table reads a sum of any width, rightly down to a ring below `TOP`.

Worked example: a ring of 64 units of half a nat, read by one table of five bits, is right from -25
to 7 nats; levels are -7 to 7, and differences of two of them have five bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.fhe_compile.decoding.names import LOGITS, NEXT, NOISE
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    ArgMax,
    IntArray,
    Port,
    Program,
    Table,
)
from torusformer.fhe_compile.program.ports import quantize_array
from torusformer.fhe_compile.program.ranges import LIMIT_BITS
from torusformer.strict_json import parse_json

LAYER = "argmax"
# Nats: where the largest of logits + noise is to lie. One draw in a thousand has two of them above.
LOWEST, HIGHEST = -2.0, 3.7
NOISE_RANGE = (-2.0, 6.0)  # nats
GREEDY = 2.0  # the noise that takes the likeliest token's logit to the middle of the window
WINDOW_KEY = "window"
LEVELS = 8  # differences of 0 to 7 have four bits
TOP = 7.0  # nats: a little above the highest logit and the largest noise
LEAST_RING = 20.0  # nats
WIDEST_RING = 2**6  # integers: what a table of five bits reads
RING_LEVELS = 8  # differences of -7 to 7 have five bits


@dataclass(frozen=True)
class Window:
    """Which integers of logits + noise are told apart, and how finely.

    Integers n become clip((n - floor) >> lsbs, 0, levels - 1). With a `ring` of so many integers
    below `top`, its upper half becomes clip((n - floor) * levels // width, 0, levels - 1), and a
    number half a ring lower gets that negated.
    """

    floor: int
    lsbs: int
    levels: int
    ring: int = 0
    top: int = 0
    width: int = 0

    def read(self, n: IntArray) -> IntArray:
        """The level of each integer."""
        if not self.ring:
            return np.clip((n - self.floor) >> self.lsbs, 0, self.levels - 1)
        half = self.ring // 2
        place = (n - self.top) % self.ring  # the upper half is the second one
        above = self.top - half + place % half - self.floor
        level = np.clip(above * self.levels // self.width, 0, self.levels - 1)
        return np.where(place >= half, level, -level)

    def pick(self, logits: IntArray, noise: IntArray) -> int:
        """The token: index of the first of the highest levels of (1, V) `comparable` integers."""
        return int(self.read(logits + noise).argmax())


def window_for(logits: Port, levels: int = LEVELS) -> Window:
    """The window from `LOWEST` to at least `HIGHEST` in as many levels, by the logits' scale.

    In a ring, with `RING_LEVELS` at most, where `WIDEST_RING` units are `LEAST_RING` nats.
    """
    scale = float(logits.scale.reshape(-1)[0])
    floor, width = round(LOWEST / scale), (HIGHEST - LOWEST) / scale
    if scale * WIDEST_RING < LEAST_RING:
        return Window(floor, max(0, math.ceil(math.log2(width / levels) - 1e-9)), levels)
    ring = 2 ** max(2, math.ceil(math.log2(LEAST_RING / scale)))
    levels = min(levels, RING_LEVELS)
    return Window(floor, 0, levels, ring, round(TOP / scale), max(1, round(width)))


def one_hot(token: int, count: int) -> IntArray:
    """The row (1, count) of a token."""
    return np.eye(count, dtype=np.int64)[[token]]


def comparable(logits: Port, n: IntArray) -> IntArray:
    """Integers of logits on one grid, zero at zero, as a window reads them."""
    return n - np.rint(logits.zero_point).astype(np.int64)


def noise_port(logits: Port) -> Port:
    """Integers on the logits' grid, zero at zero."""
    scale = float(logits.scale.reshape(-1)[0])
    lo, hi = (round(end / scale) for end in NOISE_RANGE)
    return Port(NOISE, logits.shape, lo, hi, np.array(scale))


def with_picking(program: Program) -> Program:
    """The program with an input `noise` and an output `next`, the one-hot row of the next token.

    It reads the window in the program's metadata. Logits do not leave it: to be read at their full
    precision, they would make every table that writes into them dear.
    """
    logits, window = logits_of(program), window_of(program.metadata)
    others = (port for port in program.outputs if port.name != LOGITS)
    noise = noise_port(logits)
    reach = program.ranges[LOGITS]
    zeros = comparable(logits, np.zeros(logits.shape, np.int64))
    lo, hi = int((reach.lo + zeros).min()) + noise.lo, int((reach.hi + zeros).max()) + noise.hi
    read = window.read(np.arange(lo, hi + 1))
    nodes = (
        AddConst(f"{NEXT}.logits", LAYER, (LOGITS,), zeros),
        Add(f"{NEXT}.noisy", LAYER, (f"{NEXT}.logits", NOISE)),
        Table(f"{NEXT}.level", LAYER, (f"{NEXT}.noisy",), np.array(-lo), read),
        ArgMax(NEXT, LAYER, (f"{NEXT}.level",)),
    )
    return program.replace(
        inputs=(*program.inputs, noise),
        outputs=(*others, Port(NEXT, logits.shape, 0, 1, one_hot=True)),
        nodes=(*program.nodes, *nodes),
    )


def logits_of(program: Program) -> Port:
    """The output `logits`; InputError where there is none, or they do not compare."""
    logits = next((port for port in program.outputs if port.name == LOGITS), None)
    if logits is None:
        raise InputError(f"the program has no output {LOGITS!r}; a token is picked from logits")
    whole = np.allclose(logits.zero_point, np.rint(logits.zero_point), atol=1e-3)
    if logits.scale.size > 1 or not whole:
        raise InputError("logits on several grids do not compare; export a decoder's head")
    return logits


def window_to_json(window: Window) -> str:
    """For the metadata of a program."""
    return json.dumps(asdict(window))


def window_of(metadata: Mapping[str, str]) -> Window:
    """Inverse of `window_to_json`; a KeyError, TypeError or ValueError for anything else."""
    window = Window(**parse_json(metadata[WINDOW_KEY]))
    sizes = (abs(window.floor), 2**LIMIT_BITS), (window.lsbs, LIMIT_BITS), (window.levels, 2**16)
    if not all(type(n) is int and 0 <= n < limit for n, limit in sizes) or window.levels < 2:
        raise ValueError(f"{window} tells no logits apart")
    return window


def draw_noise(
    port: Port, temperature: float, generator: np.random.Generator | None = None
) -> IntArray:
    """The noise of one token, (1, V) integers of the port `noise`; temperature 0 is greedy.

    The lower the temperature, the higher the likeliest logit lies without noise: what is drawn is
    shifted, the same for all, so that the largest sum stays in the window.
    """
    if not 0 <= temperature <= 2:
        raise InputError(f"temperature is {temperature}; give 0 (greedy) to 2")
    drawn: NDArray[np.float64] = np.zeros(port.shape)
    if temperature:
        drawn = temperature * (generator or np.random.default_rng()).gumbel(size=port.shape)
    return quantize_array(port, drawn + GREEDY * (1 - temperature))
