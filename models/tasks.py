"""Named tasks: a name, perhaps a file of the user's, and the shape of an input in; a `Task` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torusformer import InputError
from torusformer.models.samples import load_digits_task
from torusformer.models.task import Task
from torusformer.models.words import load_words_task

Loader = Callable[[str | Path | None, tuple[int, int] | None, tuple[int, ...] | None], Task]

TASKS: Mapping[str, Loader] = {"digits": load_digits_task, "words": load_words_task}
_PRESET_OF: Mapping[str, str] = {"digits": "digits-small", "words": "words"}


def load_task(
    name: str,
    data: str | Path | None = None,
    *,
    patch: tuple[int, int] | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Task:
    """A task by name; `data` replaces its samples by a file of the user's, see its loader.

    Raises:
        InputError: there is no such task, or the samples cannot be read or do not fit.
    """
    return TASKS[_known(name)](data, patch, input_shape)


def default_preset(task: str) -> str:
    """The preset of a task where none is named."""
    return _PRESET_OF[_known(task)]


def _known(name: str) -> str:
    if name not in TASKS:
        raise InputError(f"no task named {name!r}; choose one of {', '.join(TASKS)}")
    return name
