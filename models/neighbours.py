"""The tokens before each token in, what a layer has learned about each of them out.

A window of neighbours costs no bootstrap: what it adds is linear in one-hot tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn


def rows_before(
    weight: Iterable[Tensor], tokens: Tensor, before: Sequence[Tensor] = ()
) -> Iterator[Tensor]:
    """For each row of `weight` (W - 1, V, n) what it says: (B, T, n), zero where no token is.

    Row j is about the token j + 1 places before each of `tokens` (B, T); `before` are the ids
    (B, 1) of those that precede them all, in order.
    """
    count = tokens.shape[1]
    seen = [*before, *tokens.split(1, dim=1)] if count > 1 else [*before, tokens]
    for j, row in enumerate(weight):
        missing = max(0, j + 1 - len(before))  # of the first of `tokens`
        if missing >= count:
            continue
        start = len(before) + missing - j - 1
        part = seen[start : start + count - missing]
        found = nn.functional.embedding(part[0] if count == 1 else torch.cat(part, dim=1), row)
        yield nn.functional.pad(found, (0, 0, missing, 0)) if missing else found
