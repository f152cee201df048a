"""Where a run of a model stands: which tokens come in, which are padding, which are cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from torusformer.quantize.quantizers import Grid


class Entry(NamedTuple):
    """Codes of keys and values of some tokens in one attention, (B, groups, T, d)."""

    keys: Grid
    values: Grid

    def behind(self, other: Entry) -> Entry:
        """Those of later tokens."""
        return Entry(*(_behind(old, new) for old, new in zip(other, self, strict=True)))


Cache = Mapping[str, Entry]  # by the name of the attention


def _behind(old: Grid, new: Grid) -> Grid:
    return new._replace(value=torch.cat([old.value, new.value], dim=2))


def seen_tokens(cache: Cache | None) -> int:
    """Tokens that a cache holds."""
    return next(iter(cache.values())).keys.value.shape[2] if cache else 0


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one attention: `count` new tokens behind `first` cached ones.

    `before` are the ids (B, 1) of the last of those, as far as a window of neighbours reaches.

    `keep` (B, T), codes 0 and 1, is 0 where a token is padding. What is new for the cache is put
    into `new`, under the `name` of the attention.
    """

    first: int
    count: int
    causal: bool
    keep: Grid | None = None
    before: Sequence[Tensor] = ()
    name: str = ""
    cache: Cache = field(default_factory=dict)
    new: dict[str, Entry] = field(default_factory=dict)

    def of(self, name: str) -> Rows:
        """Of one attention of the model."""
        return replace(self, name=name)

    def with_cached(self, entry: Entry) -> Entry:
        """The entry behind what is cached."""
        self.new[self.name] = entry
        return entry.behind(self.cache[self.name]) if self.cache else entry

    def positions(self, rows: int) -> Tensor:
        """Of the last `rows` tokens."""
        return torch.arange(self.first + self.count - rows, self.first + self.count)

    def counts(self, rows: int) -> list[int]:
        """How many tokens each row sees, but for padding."""
        if self.causal:
            return (self.positions(rows) + 1).tolist()
        return [self.first + self.count] * rows

    def shares(self, rows: int) -> Tensor | float:
        """One by these counts: (rows, 1), or a number where all are alike."""
        counts = self.counts(rows)
        if len(set(counts)) == 1:
            return 1 / counts[0]
        return 1 / torch.tensor(counts, dtype=torch.float32)[:, None]

    def mask(self, rows: int) -> Tensor | None:
        """1 where a row sees a token, else 0, to (B, 1, R, T); None where all see all."""
        mask = None
        if self.causal and rows > 1:
            places = torch.arange(self.first + self.count)
            mask = (places[None, :] <= self.positions(rows)[:, None]).to(torch.float32)
        if self.keep is None:
            return mask
        kept = self.keep.value[:, None, None, :]
        return kept if mask is None else kept * mask
