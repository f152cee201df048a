"""The tokens around each token in, what a layer has learned about each of them out.

A window of neighbours costs no bootstrap: what it adds is linear in one-hot tokens, and a sum of
rows of a public table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from torusformer.models.activations import ACTIVATIONS
from torusformer.models.config import ModelConfig

NEAR_STD = 0.5  # of what neighbours add to a hidden unit, before training


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


def rows_from(
    weight: Iterable[Tensor], tokens: Tensor, padding: int | None = None
) -> Iterator[Tensor]:
    """For each row of `weight` (W, V, n) what it says of `tokens` (B, T): (B, T - j, n).

    Row j is about the token j places behind each, row 0 about itself; behind the last there is
    none. What is said of `padding` is not learned.
    """
    count = tokens.shape[1]
    for j, row in enumerate(weight):
        if j < count:
            yield nn.functional.embedding(tokens[:, j:] if j else tokens, row, padding)


def summed(rows: Iterable[Tensor]) -> Tensor:
    """The sum of what `rows_from` gives, (B, T, n)."""
    first, *others = rows
    count = first.shape[1]
    return sum((nn.functional.pad(x, (0, 0, 0, count - x.shape[1])) for x in others), first)


class Window(nn.Module):
    """An embedding of phrases: a map of units that read `window` tokens from each on.

    A row of `near` (W, V, n) for each token and place; that of padding is zero and stays so, and
    where nothing but padding is read the embedding is zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Weights drawn from torch's global generator."""
        super().__init__()
        width, places = config.window_dim or 0, config.window or 1
        self.config = config
        rows = torch.randn(places, config.vocabulary or 0, width) * NEAR_STD / math.sqrt(places)
        if config.padding is not None:
            rows[:, config.padding] = 0.0
        self.near = nn.Parameter(rows)
        self.down = nn.Linear(width, config.dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) ids to (B, T, dim)."""
        total = summed(rows_from(self.near, tokens, self.config.padding))
        found: Tensor = self.down(ACTIVATIONS[self.config.activation](total))
        return found
