"""One hostile input: what it is, and what is done with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """`run` either works or raises a TorusformerError; anything else, or over 10 s, is a fault.

    It raises AssertionError where an accepted input is answered wrongly.
    """

    about: str
    run: Callable[[], None]


# (seed, an empty folder of its own) -> a case, the same for the same seed
Maker = Callable[[int, Path], Case]
