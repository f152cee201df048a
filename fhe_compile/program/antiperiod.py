"""A table's content in, the narrowest ring out in which one bootstrap reads it.

Behind the 2^p entries of a bootstrap the table stands once more, negated, and sums are exact modulo
2^(p + 1): so p bits read every table with f(v) + f(v + 2^p) = c, over any range, as f - c/2. What a
sum is beyond the ring does not matter, nothing of it needs to be proved; c must be even.

Worked example: -1, 0, 1, 1, 1, 0, -1, -1, and so again, is antiperiodic by 4 with c = 0: two bits
read a sum of any width.

Source: negacyclic blind rotation, Chillotti et al., "TFHE: Fast Fully Homomorphic Encryption over
the Torus", 2020, section 4; sums that wrap are trained for by Ni et al., "WrapNet", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class Fold:
    """A table is read modulo 2**(bits + 1).

    `half` (x's shape) is c/2 of each element's part of the table.
    """

    bits: int
    half: IntArray


def narrowest_fold(values: IntArray, index: Interval) -> Fold | None:
    """The fewest bits that read values[index], if they are fewer than the index has.

    `index` are the proved ends of what each element looks up, inside of `values`.
    """
    spans, which = np.unique(
        np.stack([index.lo.ravel(), index.hi.ravel()], axis=1), axis=0, return_inverse=True
    )
    for bits in range(1, index.span_bits):
        constants = [_constant(values[lo : hi + 1], 2**bits) for lo, hi in spans]
        if all(c is None or c % 2 == 0 for c in constants):
            known = next((c for c in constants if c is not None), 0)  # of what never wraps: any
            halves = np.array([(known if c is None else c) // 2 for c in constants])
            return Fold(bits, halves[which.ravel()].reshape(index.shape))
    return None


def bits_read(values: IntArray, offset: IntArray, x: Interval) -> int:
    """Bits that a bootstrap of values[x + offset] reads: modulo a ring, where that is fewer."""
    index = Interval(x.lo + offset, x.hi + offset)
    fold = narrowest_fold(values, index)
    return index.span_bits if fold is None else fold.bits


def _constant(part: IntArray, half: int) -> int | None:
    """f(v) + f(v + half) where it is the same for every v; None for no pair, 1 where it is not."""
    sums = part[:-half] + part[half:]
    if not sums.size:
        return None
    return int(sums[0]) if (sums == sums[0]).all() else 1


def folded_tables(
    values: IntArray, index: Interval, start: IntArray, fold: Fold
) -> tuple[IntArray, IntArray]:
    """Distinct tables (n, 2**bits) of f - c/2 and which one (x's shape) each element reads.

    `start` (x's shape) is the index that an element's zero stands for. What no index reaches is 0.
    """
    size = 2**fold.bits
    parts = np.stack([index.lo, index.hi, start % (2 * size), fold.half], axis=-1).reshape(-1, 4)
    distinct, which = np.unique(parts, axis=0, return_inverse=True)
    tables = np.zeros((len(distinct), size), np.int64)
    for table, (lo, hi, zero, half) in zip(tables, distinct, strict=True):
        place = (np.arange(lo, hi + 1) - zero) % (2 * size)
        entry = values[lo : hi + 1] - half
        table[place % size] = np.where(place < size, entry, -entry)
    tables, row = np.unique(tables, axis=0, return_inverse=True)
    mapping: IntArray = row.ravel()[which.ravel()].reshape(index.shape)
    return tables, mapping
