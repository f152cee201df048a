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

from torusformer.models.neighbours import Window
from torusformer.models.transformer import Transformer

MEANINGS = 96  # principal components of a teacher's embedding that are kept


class MappedWords(nn.Module):
    """A parametrization of rows (..., V, n): `words` (V, k) times a map (..., k, n), plus rows."""

    def __init__(self, words: Tensor, rows: Tensor) -> None:
        """The map is random, of the standard deviation that `rows` have."""
        super().__init__()
        self.register_buffer("words", words, persistent=False)
        shape = (*rows.shape[:-2], words.shape[1], rows.shape[-1])
        width = float(rows.std()) / math.sqrt(words.shape[1])
        self.map = nn.Parameter(torch.randn(shape) * width)

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
def mapped_words(student: Transformer, words: Tensor) -> Iterator[None]:
    """While this is open the student's rows of tokens are a map of `words` and a part of their own.

    Maps are drawn from torch's global generator.
    """
    embed = student.embed
    name = "near" if isinstance(embed, Window) else "weight"
    rows = getattr(embed, name)
    mapped = MappedWords(words, rows)
    nn.init.zeros_(rows)
    parametrize.register_parametrization(embed, name, mapped)
    try:
        yield
    finally:
        parametrize.remove_parametrizations(embed, name, leave_parametrized=True)
