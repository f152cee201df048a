"""Texts in, texts made of their parts out: what a teacher is asked so that a student may learn it.

A student that hears a teacher's answers to many more texts than have labels learns much more of
it (arXiv 1903.12136, whose masking and n-grams these are; joining short ones is ours). They need
not be good texts, only such as the teacher has an opinion on.

| share | a new text is |
|---|---|
| 4 in 10 | a long one, some of its tokens drawn anew from all texts |
| 4 in 10 | two to four short ones in a row |
| 1 in 10 | a part of one, some of its tokens drawn anew |
| 1 in 10 | the beginning of one and the end of another |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
SHORT = 12  # tokens of a text that is put in a row with others
NOISE = (0.1, 0.2, 0.35)  # shares of tokens that are drawn anew
LEAST_CUT = 3


def recombined(x: Ids, padding: int, count: int, seed: int) -> Ids:
    """(count, T) ids of texts made of those in x (N, T), padded or cut at the end.

    The same seed gives the same texts.
    """
    rng = np.random.default_rng(seed)
    texts = [row[row != padding] for row in x]
    parts = _Parts(texts, rng)
    made = np.full((count, x.shape[1]), padding, np.int64)
    for row in made:
        text = parts.draw()[: len(row)]
        row[: len(text)] = text
    return made


class _Parts:
    """What is drawn from: all texts, those at least as long as most, and short ones."""

    def __init__(self, texts: Sequence[Ids], rng: np.random.Generator) -> None:
        self.rng, self.texts = rng, texts
        lengths = np.array([len(text) for text in texts])
        middle = np.quantile(lengths, 0.75)
        self.long = [t for t in texts if len(t) >= middle]
        self.short = [t for t in texts if 2 <= len(t) <= SHORT] or list(texts)
        self.tokens = np.concatenate(self.long)

    def draw(self) -> Ids:
        """One new text."""
        kinds: tuple[Callable[[], Ids], ...] = (self._noisy, self._joined, self._cut, self._crossed)
        return kinds[self.rng.choice(len(kinds), p=(0.4, 0.4, 0.1, 0.1))]()

    def _one(self, of: Sequence[Ids]) -> Ids:
        return of[self.rng.integers(len(of))]

    def _with_noise(self, text: Ids, share: float) -> Ids:
        drawn = self.tokens[self.rng.integers(len(self.tokens), size=len(text))]
        return np.where(self.rng.random(len(text)) < share, drawn, text)

    def _noisy(self) -> Ids:
        return self._with_noise(self._one(self.long), float(self.rng.choice(NOISE)))

    def _joined(self) -> Ids:
        return np.concatenate([self._one(self.short) for _ in range(self.rng.integers(2, 5))])

    def _cut(self) -> Ids:
        text = self._one(self.long)
        size = int(self.rng.integers(min(LEAST_CUT, len(text)), len(text) + 1))
        start = int(self.rng.integers(len(text) - size + 1))
        return self._with_noise(text[start : start + size], NOISE[0])

    def _crossed(self) -> Ids:
        first, second = self._one(self.long), self._one(self.long)
        return np.concatenate(
            [
                first[: self.rng.integers(1, len(first) + 1)],
                second[self.rng.integers(len(second)) :],
            ]
        )
