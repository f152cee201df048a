"""Make a table antiperiodic where samples do not reach, so that few bits read its sum.

Sums reach far beyond what they are on data: a table of a 10-bit range may see 60 numbers of it. It
keeps its entries f in a window of 2^p integers, each channel one of its own; beside the window it
says c - f, then f again, and so on, so p bits read it (`program.antiperiod`), without a bootstrap
more. Of a quantizer that saturates c is about its least and its largest code together: above the
window it goes on with about the largest, below it with about the least, up to 2^p from its steps.
What lies beyond is read wrongly.

Worked example: -1, 0, 1 of x < -1, x = -1 .. 1, x > 1 with p = 2 and the window [-2, 1]: c is 0, so
2 and 3 give 1 as before, 4 gives 0 and 5 gives -1.
"""

from __future__ import annotations

import numpy as np

from torusformer.fhe_compile.passes.table_channels import TableChannels
from torusformer.fhe_compile.program.nodes import IntArray

MOST_WINDOWS = 64  # that are tried in a channel


def wrapped(channels: TableChannels, bits: int) -> list[IntArray]:
    """Entries of each channel, from `lo` to `hi`: windows and constants that change least."""
    return [_of_channel(channels, channel, bits) for channel in range(len(channels))]


def _of_channel(channels: TableChannels, channel: int, bits: int) -> IntArray:
    entries, weights = channels.entries[channel], channels.weights[channel]
    size, half = len(entries), 1 << bits
    if size <= half:
        return entries
    ends = int(entries[0]) + int(entries[-1])
    constants = {ends} if ends % 2 == 0 else {ends - 1, ends + 1}
    rows = np.arange(size)
    best: tuple[float, IntArray] | None = None
    last = size - half
    for first in range(0, last + 1, max(1, last // MOST_WINDOWS)):
        turn, place = np.divmod(rows - first, half)
        window = entries[first + place]
        for constant in sorted(constants):
            new = np.where(turn % 2 == 0, window, constant - window)
            changed = float(np.dot(np.abs(new - entries), weights))
            if best is None or changed < best[0]:
                best = changed, new
    assert best is not None
    return best[1]
