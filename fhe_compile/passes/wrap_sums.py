"""Make a table antiperiodic where samples do not reach, so that few bits read its sum.

Sums reach far beyond what they are on data: a table of a 10-bit range may see 60 numbers of it. It
keeps its entries f in a window of 2^p integers, each channel one of its own; beside the window it
says c - f, then f again, and so on, so p bits read it (`program.antiperiod`), without a bootstrap
more. Of a quantizer that saturates c is about its least and its largest code together: above the
window it goes on with about the largest, below it with about the least, up to 2^p from its steps.
What lies beyond is read wrongly. Where c would be odd, which no bootstrap gives, it is one more or
less, and codes reach a step further than before; or, where they must stay `tight`, the code that
has no counterpart becomes its neighbour.

Worked example: -1, 0, 1 of x < -1, x = -1 .. 1, x > 1 with p = 2 and the window [-2, 1]: c is 0, so
2 and 3 give 1 as before, 4 gives 0 and 5 gives -1.
"""

from __future__ import annotations

import numpy as np

from torusformer.fhe_compile.passes.table_channels import TableChannels
from torusformer.fhe_compile.program.nodes import IntArray

MOST_WINDOWS = 64  # that are tried in a channel


def wrapped(channels: TableChannels, bits: int, *, tight: bool = False) -> list[IntArray]:
    """Entries of each channel, from `lo` to `hi`: windows and constants that change least."""
    return [_of_channel(channels, channel, bits, tight) for channel in range(len(channels))]


def _of_channel(channels: TableChannels, channel: int, bits: int, tight: bool) -> IntArray:
    entries, weights = channels.entries[channel], channels.weights[channel]
    size, half = len(entries), 1 << bits
    if size <= half:
        return entries
    ends = int(entries[0]) + int(entries[-1])
    constants = {ends} if ends % 2 == 0 else {ends - 1, ends + 1}
    least, largest = int(entries.min()), int(entries.max())
    last = size - half
    firsts = np.arange(0, last + 1, max(1, last // MOST_WINDOWS))
    turn, place = np.divmod(np.arange(size) - firsts[:, None], half)
    windows = entries[firsts[:, None] + place]
    best: tuple[float, IntArray] | None = None
    for constant in sorted(constants):
        kept = np.clip(windows, constant - largest, constant - least) if tight else windows
        new = np.where(turn % 2 == 0, kept, constant - kept)
        changed = np.abs(new - entries) @ weights
        at = int(changed.argmin())
        if best is None or changed[at] < best[0]:
            best = float(changed[at]), new[at]
    assert best is not None
    return best[1]
