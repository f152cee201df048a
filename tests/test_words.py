"""The task `words`: what is read, how it is split, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torusformer import InputError
from torusformer.models import Task, load_task
from torusformer.models.task import UNKNOWN
from torusformer.models.words import decode, embedded_words, encode


def load_words(data: Path | None = None, *, context: int) -> Task:
    return load_task("words", data, input_shape=(context,))


def test_the_embedded_words_are_words():
    words = embedded_words()
    assert 2500 < len(words) == len(set(words))
    assert all(2 <= len(word) <= 12 and word.isascii() and word.islower() for word in words)


def test_every_word_is_in_one_part_only():
    task = load_words(context=16)
    assert task.vocabulary == task.labels == ("\n", *"abcdefghijklmnopqrstuvwxyz")
    assert task.last is not None
    parts = [
        {decode(row[1:].tolist(), task.labels) for row in tokens}
        for tokens in (task.x_train, task.x_test, task.last[0])
    ]
    assert set.union(*parts) == set(embedded_words())
    assert sum(map(len, parts)) == len(embedded_words())
    assert len(parts[0]) == int(0.8 * len(embedded_words()))
    assert np.array_equal(load_words(context=16).x_train, task.x_train)


def test_targets_are_the_tokens_that_follow():
    task = load_words(context=6)
    for tokens, targets in zip(task.x_test, task.y_test, strict=True):
        known = int((targets != UNKNOWN).sum())
        assert tokens[0] == 0
        assert np.array_equal(tokens[1:known], targets[: known - 1])
        assert (targets[:known] != UNKNOWN).all()


@given(st.text("abc", max_size=8))
def test_text_survives_its_tokens(text: str):
    labels = ("\n", "a", "b", "c")
    assert decode(encode(text, labels)[1:], labels) == text


def test_a_file_of_words_and_one_of_text(tmp_path: Path):
    (tmp_path / "words.txt").write_text("\n".join(f"w{i:03d}" for i in range(50)))
    words = load_words(tmp_path / "words.txt", context=8)
    assert words.last is not None
    assert (len(words.x_train), len(words.x_test), len(words.last[0])) == (40, 5, 5)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 20)
    text = load_words(tmp_path / "text.txt", context=8)
    assert " " in text.labels
    assert (text.y_train[0] != UNKNOWN).all()
    assert text.x_train[0, 0] == 0


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
    for patch, shape in (((1, 8), (8,)), (None, (4, 16)), (None, None)):
        with pytest.raises(InputError, match="words are token ids; give a model of a vocabulary"):
            load_task("words", patch=patch, input_shape=shape)


def test_nats_are_those_of_known_targets():
    task = load_words(context=4)
    y = torch.tensor([[1, 2, UNKNOWN, UNKNOWN]])
    logits = torch.zeros(1, 4, 27)
    logits[0, 2:] = 1e9 * torch.arange(27)
    assert task.measured(logits, y) == pytest.approx(2 * np.log(27), rel=1e-5)
    assert task.test_count == int((task.y_test != UNKNOWN).sum()) < task.y_test.size


def test_batches_end_with_the_longest_of_their_words():
    task = load_words(context=16)
    for x, y, _ in task.batches(256, torch.Generator().manual_seed(0)):
        assert x.shape == y.shape
        assert (y[:, -1] != UNKNOWN).any()
