"""Integer programs and held-out samples in, how good their answers are out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.decoding.decoder import DecoderProgram
from torusformer.fhe_compile.decoding.loop import Cache
from torusformer.fhe_compile.decoding.names import LOGITS
from torusformer.fhe_compile.decoding.picking import logits_of, one_hot
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import dequantize_array
from torusformer.models.task import UNKNOWN
from torusformer.progress import track


def program_nll(
    decoder: DecoderProgram, x: NDArray[np.int64], y: NDArray[np.int64], label: str = "program"
) -> float:
    """Mean negative log-likelihood a token of token ids x (N, T), natural logarithm.

    `y` (N, T) are the tokens that follow. What several rows begin with is computed once.
    """
    known: dict[tuple[int, ...], tuple[NDArray[np.float64], Cache[IntArray]]] = {}
    total = 0.0
    for tokens, targets in track(list(zip(x.tolist(), y.tolist(), strict=True)), label):
        cache = Cache[IntArray]()
        for position, target in enumerate(targets):
            if target == UNKNOWN:
                break
            prefix = tuple(tokens[: position + 1])
            if prefix not in known:
                known[prefix] = _foretold(decoder, prefix[-1], cache)
            log_p, cache = known[prefix]
            total -= float(log_p[target])
    return total / int((y != UNKNOWN).sum())


def _foretold(
    decoder: DecoderProgram, token: int, cache: Cache[IntArray]
) -> tuple[NDArray[np.float64], Cache[IntArray]]:
    """Log-probabilities of the next token, and the cache with this one."""
    port = logits_of(decoder.steps[cache.position])
    row = one_hot(token, len(decoder.labels))
    given, cache = replace(cache, token=row).step(decoder.run)
    logits = dequantize_array(port, given[LOGITS])[0]
    log_p = logits - logits.max()
    return log_p - np.log(np.exp(log_p).sum()), cache
