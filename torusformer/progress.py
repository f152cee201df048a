"""Progress on stderr for everything that takes more than two seconds.

>>> with Progress("compile", seconds=40):
...     compile_program(program)  # doctest: +SKIP
compile: 12 s of about 40 s

>>> for image in track(images, "encrypt"):
...     ...  # doctest: +SKIP
encrypt: 2/3, 20 s, about 10 s left
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TextIO, TypeVar

Item = TypeVar("Item")

SILENCE = 2.0  # seconds before the first word


class Progress:
    """Says how long `label` has taken and how long it will.

    `seconds` is an estimate for the whole, known beforehand (the plan's, say); with `total` items
    those done so far replace it. A terminal gets a bar that moves, a log a new line after ten
    seconds and then ever more rarely.
    """

    def __init__(
        self,
        label: str,
        *,
        seconds: float | None = None,
        total: int | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.label = label
        self.seconds = seconds
        self.total = total
        self.done = 0
        self.note = ""
        self._stream = stream if stream is not None else sys.stderr
        self._stop = threading.Event()
        self._start = 0.0

    def advance(self, note: str = "", count: int = 1) -> None:
        """So many more items are done; `note` is shown behind the count ("loss 0.12")."""
        self.done += count
        self.note = note

    @property
    def elapsed(self) -> float:
        """Seconds since the block began."""
        return time.monotonic() - self._start

    def state(self) -> str:
        """How far it is now."""
        parts = [f"{self.elapsed:.0f} s"]
        if self.total:
            parts.insert(0, f"{self.done}/{self.total}")
            whole = self.elapsed / self.done * self.total if self.done else self.seconds
            if whole is not None:
                parts.append(f"about {max(0.0, whole - self.elapsed):.0f} s left")
        elif self.seconds is not None:
            parts[0] += f" of about {self.seconds:.0f} s"
        return ", ".join([*parts, self.note] if self.note else parts)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self.elapsed >= SILENCE:
            word = "stopped after" if kind else "took"
            self._write(f"{word} {self.elapsed:.1f} s")

    def _show(self) -> None:
        if self._stop.wait(SILENCE):
            return
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._move_bar()
        else:
            self._write(self.state())
            while not self._stop.wait(max(10.0, self.elapsed / 2)):
                self._write(self.state())

    def _move_bar(self) -> None:
        """A bar of items done or of seconds gone; it swings where neither has an end."""
        from rich import progress
        from rich.console import Console

        with progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[state]}", markup=False),
            console=Console(file=self._stream),
            transient=True,
            redirect_stdout=False,  # the commands do
            redirect_stderr=False,
        ) as bars:
            task = bars.add_task(self.label, total=self.total or self.seconds, state=self.state())
            while not self._stop.wait(0.2):
                done = self.done if self.total else self.elapsed
                bars.update(task, completed=done, state=self.state())

    def _write(self, text: str) -> None:
        with suppress(OSError):  # nobody reads it any more: no reason to stop
            self._stream.write(f"{self.label}: {text}\n")
            self._stream.flush()


def track(items: Sequence[Item], label: str, *, seconds: float | None = None) -> Iterator[Item]:
    """The items one by one, with count and time left on stderr; `seconds` is a guess for each."""
    whole = None if seconds is None else seconds * len(items)
    with Progress(label, total=len(items), seconds=whole) as progress:
        for item in items:
            yield item
            progress.advance()
