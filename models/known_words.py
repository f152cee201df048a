"""What a teacher knows of words in, a student that learns from there out.

Rows of a student's tokens are a learned map of the teacher's, and what is learned of each token
besides: what is learned of one word then holds for those that mean about the same. Behind the
training both are one matrix again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

MEANINGS = 96  # principal components of a teacher's embedding that are kept


class MappedWords(nn.Module):
    """A parametrization of rows (..., V, n): `words` (V, k) times a map (..., k, n), plus rows."""

    def __init__(self, words: Tensor, start: Tensor) -> None:
        """The map is `start` (..., k, n)."""
        super().__init__()
        self.register_buffer("words", words, persistent=False)
        self.map = nn.Parameter(start)

    def forward(self, rows: Tensor) -> Tensor:
        """What is learned besides to the whole rows."""
        found: Tensor = self.words @ self.map + rows
        return found


@torch.no_grad()
def meanings(embedding: Tensor, kept: Tensor, padding: int | None) -> Tensor:
    """(n, k): principal components of the rows `kept` (n,) of an embedding (V, d).

    They have unit variance; that of `padding` is zero.
    """
    rows = embedding[kept] - embedding[kept].mean(0)
    _, _, vectors = torch.linalg.svd(rows.T @ rows)
    found = rows @ vectors[:MEANINGS].T
    found = found / found.std()
    if padding is not None:
        found[padding] = 0.0
    return found


@contextmanager
def mapped_words(model: nn.Module, words: Tensor, *, trained: bool = False) -> Iterator[None]:
    """While this is open, rows of tokens in a model are a map of `words` and a part of their own.

    Of a model that is `trained` the map is the nearest one, and the part what it leaves: nothing
    changes. Of another the map is random, drawn from torch's global generator as wide as its rows.
    """
    found = [
        (module, name)
        for module in model.modules()
        for name, rows in module.named_parameters(recurse=False)
        if rows.ndim > 1 and rows.shape[-2] == len(words)
    ]
    for module, name in found:
        rows = getattr(module, name)
        start = _nearest(words, rows) if trained else _random(words, rows)
        with torch.no_grad():
            rows -= words @ start if trained else rows.clone()
        parametrize.register_parametrization(module, name, MappedWords(words, start))
    try:
        yield
    finally:
        for module, name in found:
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)


@torch.no_grad()
def _nearest(words: Tensor, rows: Tensor) -> Tensor:
    """(..., k, n): the map with the least squared error."""
    found: Tensor = torch.linalg.pinv(words) @ rows
    return found


def _random(words: Tensor, rows: Tensor) -> Tensor:
    """(..., k, n): one that gives rows of the standard deviation of these."""
    width = float(rows.std()) / math.sqrt(words.shape[1])
    return torch.randn((*rows.shape[:-2], words.shape[1], rows.shape[-1])) * width
