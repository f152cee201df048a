"""Texts made of parts of others."""

from __future__ import annotations

import numpy as np

from torusformer.models.recombined import recombined

PADDING = 0


def some_texts(count: int = 60, tokens: int = 12) -> np.ndarray:
    """Texts of 1 to all tokens, ids up to 40."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 40, (count, tokens))
    return x * (np.arange(tokens) < rng.integers(1, tokens + 1, count)[:, None])


def test_they_are_made_of_known_tokens_and_padded_behind() -> None:
    x = some_texts()
    made = recombined(x, PADDING, 500, seed=1)
    assert made.shape == (500, 12) and made.dtype == np.int64
    assert set(np.unique(made)) <= set(np.unique(x))
    words = made != PADDING
    assert words[:, 0].all() and (words[:, :-1] >= words[:, 1:]).all()


def test_most_are_new_and_of_many_lengths() -> None:
    x = some_texts()
    made = recombined(x, PADDING, 500, seed=1)
    known = {row.tobytes() for row in x}
    assert sum(row.tobytes() in known for row in made) < 150
    assert len({int(n) for n in (made != PADDING).sum(1)}) > 8


def test_a_seed_is_a_set_of_texts() -> None:
    x = some_texts()
    first = recombined(x, PADDING, 50, seed=1)
    np.testing.assert_array_equal(first, recombined(x, PADDING, 50, seed=1))
    assert (first != recombined(x, PADDING, 50, seed=2)).any()


def test_a_few_texts_of_one_token_will_do() -> None:
    x = np.array([[3, 0, 0], [5, 0, 0]])
    assert set(np.unique(recombined(x, PADDING, 30, seed=0))) == {0, 3, 5}
