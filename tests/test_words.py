"""The task `words`: what is read, how it is split, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torusformer import InputError
from torusformer.models.words import IGNORED, decode, embedded_words, encode, load_words


def test_the_embedded_words_are_words():
    words = embedded_words()
    assert 2500 < len(words) == len(set(words))
    assert all(2 <= len(word) <= 12 and word.isascii() and word.islower() for word in words)


def test_every_word_is_in_one_part_only():
    task = load_words(context=16)
    assert task.labels == ("\n", *"abcdefghijklmnopqrstuvwxyz")
    parts = [
        {decode(row[1:].tolist(), task.labels) for row in part.tokens}
        for part in (task.train, task.dev, task.test)
    ]
    assert set.union(*parts) == set(embedded_words())
    assert sum(map(len, parts)) == len(embedded_words())
    assert len(parts[0]) == int(0.8 * len(embedded_words()))
    again = load_words(context=16)
    assert np.array_equal(again.train.tokens, task.train.tokens)


def test_targets_are_the_tokens_that_follow():
    task = load_words(context=6)
    for tokens, targets in zip(task.dev.tokens, task.dev.targets, strict=True):
        known = int((targets != IGNORED).sum())
        assert tokens[0] == 0
        assert np.array_equal(tokens[1:known], targets[: known - 1])
        assert (targets[:known] != IGNORED).all()


@given(st.text("abc", max_size=8))
def test_text_survives_its_tokens(text: str):
    labels = ("\n", "a", "b", "c")
    assert decode(encode(text, labels)[1:], labels) == text


def test_a_file_of_words_and_one_of_text(tmp_path: Path):
    (tmp_path / "words.txt").write_text("\n".join(f"w{i:03d}" for i in range(50)))
    words = load_words(tmp_path / "words.txt", context=8)
    assert (len(words.train), len(words.dev), len(words.test)) == (40, 5, 5)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 20)
    text = load_words(tmp_path / "text.txt", context=8)
    assert " " in text.labels
    assert (text.train.targets[0] != IGNORED).all()
    assert text.train.tokens[0, 0] == 0


def test_what_is_no_text_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="is missing"):
        load_words(tmp_path / "none.txt", context=8)
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_words(tmp_path / "latin.txt", context=8)
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="2 words; give at least ten"):
        load_words(tmp_path / "few.txt", context=8)
    (tmp_path / "short.txt").write_text("a b")
    with pytest.raises(InputError, match="ten times the context"):
        load_words(tmp_path / "short.txt", context=8)
    many = "".join(chr(0x4E00 + i) for i in range(100))
    (tmp_path / "many.txt").write_text("\n".join(many))
    with pytest.raises(InputError, match="different characters, the limit is"):
        load_words(tmp_path / "many.txt", context=8)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="holds no character"):
        load_words(tmp_path / "empty.txt", context=8)
