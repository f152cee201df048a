"""Proved ranges in, bases and bits with which tables, roundings and wires read them out."""

from __future__ import annotations

from typing import Any

import numpy as np

from torusformer.fhe_compile.program.nodes import IntArray, Port
from torusformer.fhe_compile.program.ranges import Interval
from torusformer.fhe_compile.tfhe.encoding import bits_for


def wire_layout(port: Port) -> tuple[IntArray, int]:
    """Base and bits of what passes between functions.

    One below the lowest: a clear addition has to stand behind the table that made the value, since
    a bare table result keeps its table's key and readers of another width could not take it.
    """
    return np.array(port.lo - 1), bits_for(port.hi - port.lo + 1)


def table_base(x: Interval, offset: IntArray) -> tuple[IntArray, int]:
    """Base and bits with which a table reads x: the fewest bits, then the fewest tables."""
    bits = x.span_bits
    first, last = x.lo + offset, x.hi + offset
    if bits_for(last.max() - first.min()) == bits:  # one table for all
        return np.broadcast_to(first.min() - offset, x.shape), bits
    if bits_for(x.hi.max() - x.lo.min()) == bits:
        return np.full(x.shape, x.lo.min()), bits
    return x.lo, bits


def round_base(x: Interval, lsbs: int) -> tuple[IntArray, int]:
    """Base, a multiple of 2**lsbs, and bits with which a rounding reads x."""
    base = (x.lo >> lsbs) << lsbs
    bits = bits_for((x.hi - base).max())
    if bits_for(x.hi.max() - base.min()) == bits:
        base = np.full(x.shape, base.min())
    return base, bits


def distinct_rows(rows: IntArray) -> tuple[IntArray, IntArray]:
    """Each row once, sorted, and which of them each is; numpy's own is slow for long rows."""
    first = {row.tobytes(): i for i, row in reversed(list(enumerate(rows)))}
    order = sorted(first, key=lambda row: rows[first[row]].tolist())
    place = {row: i for i, row in enumerate(order)}
    found: IntArray = rows[[first[row] for row in order]]
    return found, np.array([place[row.tobytes()] for row in rows])


def tables_of(
    offset: IntArray, values: IntArray, x: Interval, out: Interval, base: IntArray, bits: int
) -> tuple[IntArray, Any, IntArray]:
    """Distinct tables of 2**bits entries from zero, which one an element reads, the result's base.

    Elements whose reps start at one place in `values` share a table.
    """
    starts, which = np.unique(np.broadcast_to(base + offset, x.shape), return_inverse=True)
    which = which.ravel()
    first, last, low = (np.full(len(starts), fill) for fill in (2**62, -(2**62), 2**62))
    np.minimum.at(first, which, np.broadcast_to(x.lo + offset, x.shape).ravel())
    np.maximum.at(last, which, np.broadcast_to(x.hi + offset, x.shape).ravel())
    np.minimum.at(low, which, out.lo.ravel())
    if bits_for(out.hi.max() - out.lo.min()) == out.span_bits:
        low[:] = out.lo.min()  # no wider, and more tables are alike
    index = np.clip(starts[:, None] + np.arange(2**bits), first[:, None], last[:, None])
    tables, row = distinct_rows(values[index] - low[:, None])
    mapping = row[which].reshape(x.shape) if len(tables) > 1 else None
    return tables, mapping, low[which].reshape(x.shape)
