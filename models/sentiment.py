"""Files of texts and labels in, padded token ids of classes out: the task of a text classifier."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torusformer import InputError
from torusformer.models.pruning import prunable, pruned
from torusformer.models.samples import HELD_OUT
from torusformer.models.task import LabelArray, Marks, Task
from torusformer.models.texts import Texts, read_texts
from torusformer.models.tokenizer import Tokenizer

PIECES = 4000  # of a tokenizer that is trained, where nobody says how many
_LEAST = 4  # texts of a class, where a part of them is held out


@dataclass(frozen=True)
class TextOptions:
    """What texts take beside their file.

    `test` is a file of held-out texts; without one a quarter is held out. `tokenizer` is a
    checkpoint's tokenizer.json or its folder; without one a tokenizer of `pieces` is trained on the
    training texts. With `template`, the checkpoint's marks are put around each text.
    """

    test: Path | None = None
    tokenizer: Path | None = None
    template: bool = False
    pieces: int = PIECES


def load_sentiment_task(
    data: str | Path | None,
    patch: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
    fit: bool = False,
    options: TextOptions | None = None,
) -> Task:
    """The task `sentiment`: `data` is a file of texts and labels, see `models.texts`.

    `input_shape` is (tokens,), the most pieces that a text may have. Longer ones are cut, and said
    to be on stderr; `run` refuses them. The split without a `test` file is fixed and stratified.

    Raises:
        InputError: there is no file or it does not serve, a class of it has too few texts, or the
            test file has a label that no training text has.
    """
    options = options or TextOptions()
    if patch is not None or input_shape is None or len(input_shape) != 1:
        raise InputError("texts are token ids; give a model of a vocabulary, not of features")
    if data is None:
        raise InputError("the task sentiment has no texts of its own; give --data FILE, see --help")
    if options.template and options.tokenizer is None:
        raise InputError("only a checkpoint has a template; give --tokenizer, or leave it out")
    source, texts = str(data), read_texts(Path(data))
    labels = tuple(sorted(set(texts.labels)))
    if len(labels) < 2:
        raise InputError(f"{source}: all labels are {labels[0]!r}; give two classes or more")
    if options.test is None:
        train, test = _split(texts, source)
    else:
        train, test = texts, read_texts(options.test)
        if unknown := sorted(set(test.labels) - set(labels)):
            raise InputError(
                f"{options.test}: label {unknown[0]!r} never occurs in {source}, whose labels are "
                f"{', '.join(labels[:8])}; mend it or add such texts to train on"
            )
    tokenizer, origin, marks = _tokenizer(train, options)
    x_train, y_train = _rows(tokenizer, train, labels, *input_shape, source)
    x_test, y_test = _rows(tokenizer, test, labels, *input_shape, str(options.test or source))
    return Task(
        "sentiment", x_train, y_train, x_test, y_test, labels, source,
        vocabulary=tokenizer.vocabulary, tokenizer=tokenizer, origin=origin,
        marks=marks,
    )  # fmt: skip


def _tokenizer(train: Texts, options: TextOptions) -> tuple[Tokenizer, LabelArray | None, Marks]:
    """Trained on the training texts, or a checkpoint's pieces that occur in them.

    Marks are those of a checkpoint whose template the texts do not get.
    """
    if options.tokenizer is None:
        return Tokenizer.trained(train.texts, options.pieces), None, ((), ())
    whole = Tokenizer.load(options.tokenizer, template=options.template)
    if options.template:
        return whole, np.arange(len(whole.vocabulary)), ((), ())
    marked = Tokenizer.load(options.tokenizer, template=True)
    marks = _marks(marked.ids(train.texts[0]), whole.ids(train.texts[0]))
    if not prunable(whole):
        return whole, np.arange(len(whole.vocabulary)), marks
    return *pruned(whole, train.texts), marks


def _marks(marked: Sequence[int], bare: Sequence[int]) -> Marks:
    """What stands around the pieces of a text; nothing where those change as well."""
    for before in range(len(marked) - len(bare) + 1):
        behind = before + len(bare)
        if marked[before:behind] == bare:
            return tuple(marked[:before]), tuple(marked[behind:])
    return (), ()


def held_out(data: Path | None, test: Path | None) -> Texts:
    """The held-out texts of these files, as `load_sentiment_task` takes them."""
    if test is not None:
        return read_texts(test)
    assert data is not None, "one of both is given"
    return _split(read_texts(data), str(data))[1]


def _split(texts: Texts, source: str) -> tuple[Texts, Texts]:
    """Three quarters to train on, one held out."""
    from sklearn.model_selection import train_test_split

    names, counts = np.unique(np.array(texts.labels), return_counts=True)
    if counts.min() < _LEAST:
        raise InputError(
            f"{source}: label {str(names[counts.argmin()])!r} has {counts.min()} texts; give "
            f"{_LEAST} or more of each class, or a file of held-out texts with --test"
        )
    train, test = train_test_split(
        np.arange(len(texts.labels)), test_size=HELD_OUT, stratify=texts.labels, random_state=0
    )
    return _taken(texts, train.tolist()), _taken(texts, test.tolist())


def _taken(texts: Texts, rows: Sequence[int]) -> Texts:
    return Texts(tuple(texts.texts[i] for i in rows), tuple(texts.labels[i] for i in rows))


def _rows(
    tokenizer: Tokenizer, texts: Texts, labels: Sequence[str], tokens: int, source: str
) -> tuple[LabelArray, LabelArray]:
    x, lengths = tokenizer.rows(texts.texts, tokens)
    if cut := int((lengths > tokens).sum()):
        print(
            f"{source}: {cut} of {len(lengths)} texts have more than {tokens} pieces and are cut "
            f"there",
            file=sys.stderr,
        )
    places = {label: i for i, label in enumerate(labels)}
    return x, np.array([places[label] for label in texts.labels], np.int64)
