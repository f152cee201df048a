"""Words or text in, token sequences with a fixed held-out split out: the task of a decoder.

Token 0 is the mark: every sequence begins with it, and a word ends with it. The other tokens are
the characters that occur, in order. With a file of one word a line a sequence is a word; of any
other text it is as many characters as the context holds, and the mark is the end of a line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torusformer import InputError
from torusformer.models.task import UNKNOWN, LabelArray, Task

MARK = "\n"
MOST_CHARACTERS = 64
_WORD = re.compile(r"\b[a-z]{2,12}\b")
_SHUFFLE = 42

Pair = tuple[LabelArray, LabelArray]  # tokens (N, context), and the token after each


def encode(text: str, labels: Sequence[str]) -> list[int]:
    """The mark and then the tokens of `text`.

    >>> encode("ab", ("\\n", "a", "b"))
    [0, 1, 2]
    """
    places = {character: i for i, character in enumerate(labels)}
    if unknown := sorted({c for c in text if c not in places}):
        known = "".join(labels[1:])
        raise InputError(f"{unknown[0]!r} is not among the characters of this model: {known}")
    return [0, *(places[character] for character in text)]


def decode(tokens: Sequence[int], labels: Sequence[str]) -> str:
    """Characters up to the first mark, without it.

    >>> decode([1, 2, 0, 1], ("\\n", "a", "b"))
    'ab'
    """
    text = "".join(labels[token] for token in tokens)
    return text.split(MARK, 1)[0]


def embedded_words() -> list[str]:
    """The distinct lower-case words of Python's own language reference, in order."""
    from pydoc_data.topics import topics

    return sorted({word for text in topics.values() for word in _WORD.findall(text)})


def load_words_task(
    data: str | Path | None,
    patch: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
    fit: bool = False,
) -> Task:
    """The task `words`; `data` replaces the embedded words by a file of the user's.

    `input_shape` is (tokens,): how many a sequence has; any text fits it.

    Of words 80 % are for training, 10 % for development and 10 % for a last test, after a shuffle
    that is always the same; of a text its first 80 %, the next 10 % and the last.
    """
    if patch is not None or input_shape is None or len(input_shape) != 1:
        raise InputError("words are token ids; give a model of a vocabulary, not of features")
    (context,) = input_shape
    if data is None:
        return _of_words(embedded_words(), context, "pydoc_data.topics")
    path = Path(data)
    if not path.is_file():
        raise InputError(f"{path} is missing; give a text file, of one word a line or of any text")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets and editors mark the byte order
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); convert it") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(re.search(r"\s", line) for line in lines):
        return _of_text(text, context, str(path))
    return _of_words(lines, context, str(path))


def _of_words(words: list[str], context: int, source: str) -> Task:
    labels = _labels("".join(words), source)
    if len(words) < 10:
        raise InputError(f"{source}: {len(words)} words; give at least ten")
    words = list(words)
    random.Random(_SHUFFLE).shuffle(words)
    first, second = int(0.8 * len(words)), int(0.9 * len(words))
    rows = [[*encode(word, labels), 0] for word in words]
    parts = (rows[:first], rows[first:second], rows[second:])
    return _task([_sequences(part, context) for part in parts], labels, source)


def _of_text(text: str, context: int, source: str) -> Task:
    labels = _labels(text.replace(MARK, ""), source)
    tokens = encode(text, labels)[1:]
    if len(tokens) < 10 * context:
        raise InputError(
            f"{source}: {len(tokens)} characters; give ten times the context of {context} or more"
        )
    first, second = int(0.8 * len(tokens)), int(0.9 * len(tokens))

    def cut(part: list[int]) -> Pair:
        starts = range(0, len(part), context)
        return _sequences([[0, *part[i : i + context]] for i in starts], context)

    parts = tokens[:first], tokens[first:second], tokens[second:]
    return _task([cut(part) for part in parts], labels, source)


def _task(parts: Sequence[Pair], labels: tuple[str, ...], source: str) -> Task:
    (x_train, y_train), (x_test, y_test), last = parts
    return Task(
        "words", x_train, y_train, x_test, y_test, labels, source,
        vocabulary=labels, measure="nats", last=last,
    )  # fmt: skip


def _labels(text: str, source: str) -> tuple[str, ...]:
    characters = sorted(set(text))
    if len(characters) > MOST_CHARACTERS:
        raise InputError(
            f"{source}: {len(characters)} different characters, the limit is {MOST_CHARACTERS};"
            " write it in lower case and without rare signs"
        )
    if not characters:
        raise InputError(f"{source}: holds no character; give words or text")
    return (MARK, *characters)


def _sequences(rows: list[list[int]], context: int) -> Pair:
    """Each row but its last token, and each but its first; longer ones are cut at the context."""
    tokens = np.zeros((len(rows), context), np.int64)
    targets = np.full((len(rows), context), UNKNOWN, np.int64)
    for i, row in enumerate(rows):
        known, after = row[:-1][:context], row[1:][:context]
        tokens[i, : len(known)], targets[i, : len(after)] = known, after
    return tokens, targets
