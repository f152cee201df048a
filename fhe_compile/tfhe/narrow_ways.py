"""A table and sums of samples in, the ways to read it narrower that may be worth it out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torusformer.fhe_compile.passes.narrow_sums import Narrowing, narrowed_table, rounded_table
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import IntArray, Table
from torusformer.fhe_compile.program.ranges import Interval
from torusformer.fhe_compile.tfhe.coupled_prices import Reading

LEAST, MOST = 2, 8  # bits that a narrowed table reads
MOST_LSBS = 6  # that a rounding before it drops


class Way(NamedTuple):
    """One way to read a table, None for as it is.

    `changed`: the mean square of how far its entries are off, on samples. `ms`: about what an
    element takes by itself.
    """

    to: Narrowing | None
    reading: Reading
    ms: float
    changed: float


def ways_of(
    table: Table,
    x: Interval,
    seen: IntArray,
    prices: PriceList,
    most: int = MOST,
    *,
    tight: bool = False,
) -> list[Way]:
    """As it is, and each way that no other is at least as good as: changed, milliseconds, bits.

    A `tight` one keeps the range of its codes.
    """
    width = bits_read(table.values, table.offset, x)
    as_it_is = Way(None, Reading(width), prices.table(width), 0.0)
    exact, found = table.evaluate([seen]), [as_it_is]
    for lsbs in range(min(width - 1, MOST_LSBS + 1)):
        coarse, reach, sums = table, x, seen
        if lsbs:
            nodes, reach, rounded = rounded_table(table, x, Narrowing(width, "wrapped", lsbs), seen)
            last = nodes[-1]
            assert isinstance(last, Table), "a rounding ends in one"
            assert rounded is not None, "sums were seen"
            coarse, sums = last, rounded
        for bits in range(min(most, width - 1), LEAST - 1, -1):
            ms = prices.rounding(width, lsbs) + prices.table(bits)
            if ms >= as_it_is.ms:
                continue
            (made,) = narrowed_table(coarse, reach, Narrowing(bits, "wrapped", tight=tight), sums)
            off = made.evaluate([sums]) - exact
            changed = float(np.square(off, dtype=np.float64).mean())
            to = Narrowing(bits, "wrapped", lsbs, tight=tight)
            found.append(Way(to, Reading(bits, lsbs), ms, changed))
    return [way for way in found if not any(_better(other, way) for other in found)]


def _better(one: Way, other: Way) -> bool:
    """Nowhere worse, and somewhere better."""
    ours, theirs = ((w.changed, w.ms, sum(w.reading), w.reading.bits) for w in (one, other))
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))
