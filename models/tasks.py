"""Named tasks: a name, perhaps a file of the user's, and the shape of an input in; a `Task` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torusformer import InputError
from torusformer.models.images import load_images_task
from torusformer.models.samples import load_digits_task
from torusformer.models.sentiment import TextOptions, load_sentiment_task
from torusformer.models.task import Task
from torusformer.models.words import load_words_task

Loader = Callable[[str | Path | None, tuple[int, int] | None, tuple[int, ...] | None, bool], Task]


class Named(NamedTuple):
    """How a task is loaded, and the preset that goes with it where none is named."""

    load: Loader
    preset: str


TASKS: Mapping[str, Named] = {
    "digits": Named(load_digits_task, "digits-small"),
    "images": Named(load_images_task, "usps"),
    "words": Named(load_words_task, "words"),
    "sentiment": Named(load_sentiment_task, "sentiment-fast"),
}


OF_TEXTS = ("sentiment",)  # tasks that a tokenizer makes ids for


def load_task(
    name: str,
    data: str | Path | None = None,
    *,
    patch: tuple[int, int] | None = None,
    input_shape: tuple[int, ...] | None = None,
    fit: bool = False,
    texts: TextOptions | None = None,
) -> Task:
    """A task by name; `data` replaces its samples by a file of the user's, see its loader.

    With `fit`, samples that do not fit `input_shape` may have another, where that is plain.
    `texts` are the options of a task of texts.

    Raises:
        InputError: there is no such task, or the samples cannot be read or do not fit.
    """
    load = _known(name).load
    if name in OF_TEXTS:
        return load_sentiment_task(data, patch, input_shape, fit, texts)
    if texts is not None:
        raise InputError(f"a file of texts and a tokenizer are for {OF_TEXTS[0]}, not for {name}")
    return load(data, patch, input_shape, fit)


def default_preset(task: str) -> str:
    """The preset of a task where none is named."""
    return _known(task).preset


def _known(name: str) -> Named:
    if name not in TASKS:
        raise InputError(f"no task named {name!r}; choose one of {', '.join(TASKS)}")
    return TASKS[name]
