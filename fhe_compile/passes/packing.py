"""Values of two factors in, the narrowest table that reads some of their products from one sum out.

Products x1 y1 + x2 y2 + ... are a table of the sum of all factors, each times a clear weight, if
sums that are alike modulo 2^(p + 1) mean the same, and if what they mean is antiperiodic: then p
bits read it, see `program.antiperiod`. The weights are found by trying them.

Worked example: of x, y in {-1, 1}, with u = (x + y) / 2 in {-1, 0, 1}, a product is 1 where u is
odd. u1 + 3 u2 is in [-4, 4]: nine values, of which -4 and 4 mean the same, two. So three bits read
two products, in a ring of 16, and weights 1, 1, 3, 3 of halves are 1, 1, 3, 3 modulo 32 of wholes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.program.nodes import (
    Broadcast,
    Concat,
    IntArray,
    Node,
    Reshape,
    Slice,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval

MAX_BITS = 4  # a wider one costs more than the same terms apart
MAX_COMBINATIONS = 256  # of the factors' values


@dataclass(frozen=True, eq=False)
class Packing:
    """Weights of x and y, those of term after term, and what a sum means modulo len(`ring`)."""

    bits: int
    left: int
    right: int
    places: tuple[int, ...]
    ring: IntArray

    def table(self, lo: int, hi: int) -> IntArray:
        """The sum of products for every sum from lo to hi."""
        return self.ring[np.arange(lo, hi + 1) % len(self.ring)]


@functools.lru_cache(maxsize=4096)
def narrowest_packing(xs: tuple[int, ...], ys: tuple[int, ...], terms: int) -> Packing | None:
    """The one with the fewest bits, at most `MAX_BITS`, and then the least noise."""
    if (len(xs) * len(ys)) ** terms > MAX_COMBINATIONS:
        return None
    pairs = np.array(list(itertools.product(xs, ys)))
    product = pairs[:, 0] * pairs[:, 1]
    meant = functools.reduce(np.add.outer, [product] * terms).ravel()
    for bits in range(1, MAX_BITS + 1):
        half = 2**bits
        signed = [s * n for n in range(1, half + 1) for s in (1, -1)]
        both = itertools.product(range(1, half + 1), signed)
        apart = [w for w in both if _is_clear(pairs @ w % (2 * half), product)]
        for left, right in sorted(apart, key=_noise):
            one = pairs @ (left, right)
            for places in sorted(itertools.product(signed, repeat=terms - 1), key=_noise):
                sums = functools.reduce(np.add.outer, [place * one for place in (1, *places)])
                ring = _ring(sums.ravel() % (2 * half), meant, half)
                if ring is not None:
                    return Packing(bits, left, right, (1, *places), ring)
    return None


def _noise(weights: tuple[int, ...]) -> int:
    return sum(w * w for w in weights)


def _is_clear(sums: IntArray, meant: IntArray) -> bool:
    """Whether equal sums mean the same."""
    found = dict(zip(sums.tolist(), meant.tolist(), strict=True))
    return all(found[s] == m for s, m in zip(sums.tolist(), meant.tolist(), strict=True))


def _ring(sums: IntArray, meant: IntArray, half: int) -> IntArray | None:
    """What every residue means, antiperiodic by `half`; None where some mean two things."""
    ring = np.zeros(2 * half, np.int64)
    known = np.zeros(2 * half, np.bool_)
    ring[sums], known[sums] = meant, True
    if (ring[sums] != meant).any():
        return None
    both = known[:half] & known[half:]
    constants = (ring[:half] + ring[half:])[both]
    constant = int(constants[0]) if constants.size else 0
    if constant % 2 or (constants != constant).any():
        return None
    other = constant - np.roll(ring, half)
    return np.where(known, ring, np.where(np.roll(known, half), other, constant // 2))


def values_of(
    name: str, made: Mapping[str, Node], ranges: Mapping[str, Interval]
) -> tuple[int, ...]:
    """What a value can be, in order: entries of the table that made it, or all in its range."""
    node = made.get(name)
    if isinstance(node, Reshape | Transpose | Slice | Broadcast | Concat):
        parts = [values_of(source, made, ranges) for source in node.inputs]
        return tuple(sorted({v for part in parts for v in part}))
    if isinstance(node, Table):
        x = ranges[node.inputs[0]]
        ends = np.broadcast_arrays(x.lo + node.offset, x.hi + node.offset)
        spans = {(int(a), int(b)) for a, b in zip(*(e.ravel() for e in ends), strict=True)}
        return tuple(sorted({int(v) for a, b in spans for v in node.values[a : b + 1]}))
    x = ranges[name]
    return tuple(range(int(x.lo.min()), int(x.hi.max()) + 1))
