"""What fusing and dividing share: a table read at gain * n + shift, both a number an element."""

from __future__ import annotations

import numpy as np

from torusformer.fhe_compile.program.nodes import IntArray


def reindexed(
    values: IntArray, n: IntArray, gain: IntArray, shift: IntArray
) -> tuple[IntArray, IntArray]:
    """values[gain * n + shift] for every n, and where each element's copy of that begins.

    There is one copy for each pair of gain and shift, laid end to end. What no input reaches may
    point outside of `values`: any number will do there.
    """
    gain, shift = np.broadcast_arrays(gain, shift)
    pairs, which = np.unique(
        np.stack([gain.ravel(), shift.ravel()], axis=1), axis=0, return_inverse=True
    )
    index = np.clip(n * pairs[:, :1] + pairs[:, 1:], 0, len(values) - 1)
    starts: IntArray = which.reshape(gain.shape) * len(n)
    return values[index].ravel(), starts if len(pairs) > 1 else np.array(0)
