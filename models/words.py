"""Words or text in, token sequences with a fixed held-out split out: the task of a decoder.

Token 0 is the mark: every sequence begins with it, and a word ends with it. The other tokens are
the characters that occur, in order. With a file of one word a line a sequence is a word; of any
other text it is as many characters as the context holds, and the mark is the end of a line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError

MARK = "\n"
IGNORED = -1  # as a target: there is no token to foretell
MOST_CHARACTERS = 64
_WORD = re.compile(r"\b[a-z]{2,12}\b")
_SHUFFLE = 42


@dataclass(frozen=True, eq=False)
class Sequences:
    """`tokens` (N, context) and `targets`, the token after each; where a row ends, `IGNORED`."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.tokens)

    @property
    def count(self) -> int:
        """Number of tokens to foretell."""
        return int((self.targets != IGNORED).sum())


@dataclass(frozen=True, eq=False)
class WordsTask:
    """Training and held-out sequences; `labels[i]` is the character that token i stands for."""

    name: str
    train: Sequences
    dev: Sequences
    test: Sequences
    labels: tuple[str, ...]
    context: int
    source: str

    def encode(self, text: str) -> list[int]:
        """The mark and then the tokens of `text`; an InputError names what is not known."""
        return encode(text, self.labels)


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


def load_words(data: str | Path | None = None, *, context: int) -> WordsTask:
    """The task `words`; `data` replaces the embedded words by a file of the user's.

    Of words 80 % are for training, 10 % for development and 10 % for a last test, after a shuffle
    that is always the same; of a text its first 80 %, the next 10 % and the last.
    """
    if data is None:
        return _of_words(embedded_words(), context, "pydoc_data.topics")
    path = Path(data)
    if not path.is_file():
        raise InputError(f"{path} is missing; give a text file, of one word a line or of any text")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); convert it") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(re.search(r"\s", line) for line in lines):
        return _of_text(text, context, str(path))
    return _of_words(lines, context, str(path))


def _of_words(words: list[str], context: int, source: str) -> WordsTask:
    labels = _labels("".join(words), source)
    if len(words) < 10:
        raise InputError(f"{source}: {len(words)} words; give at least ten")
    words = list(words)
    random.Random(_SHUFFLE).shuffle(words)
    first, second = int(0.8 * len(words)), int(0.9 * len(words))
    rows = [[*encode(word, labels), 0] for word in words]
    parts = (rows[:first], rows[first:second], rows[second:])
    train, dev, test = (_sequences(part, context) for part in parts)
    return WordsTask("words", train, dev, test, labels, context, source)


def _of_text(text: str, context: int, source: str) -> WordsTask:
    labels = _labels(text.replace(MARK, ""), source)
    tokens = encode(text, labels)[1:]
    if len(tokens) < 10 * context:
        raise InputError(
            f"{source}: {len(tokens)} characters; give ten times the context of {context} or more"
        )
    first, second = int(0.8 * len(tokens)), int(0.9 * len(tokens))

    def cut(part: list[int]) -> Sequences:
        starts = range(0, len(part), context)
        return _sequences([[0, *part[i : i + context]] for i in starts], context)

    parts = tokens[:first], tokens[first:second], tokens[second:]
    train, dev, test = (cut(part) for part in parts)
    return WordsTask("words", train, dev, test, labels, context, source)


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


def _sequences(rows: list[list[int]], context: int) -> Sequences:
    """Each row but its last token, and each but its first; longer ones are cut at the context."""
    tokens = np.zeros((len(rows), context), np.int64)
    targets = np.full((len(rows), context), IGNORED, np.int64)
    for i, row in enumerate(rows):
        known, after = row[:-1][:context], row[1:][:context]
        tokens[i, : len(known)], targets[i, : len(after)] = known, after
    return Sequences(tokens, targets)
