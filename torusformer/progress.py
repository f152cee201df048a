"""Progress on stderr for everything that takes more than two seconds.

>>> with Progress("compile", seconds=40):
...     compile_program(program)  # doctest: +SKIP
compile: 12 s of about 40 s

>>> for image in track(images, "encrypt"):
...     ...  # doctest: +SKIP
encrypt: 2/3, 20 s, about 10 s left
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TextIO, TypeVar

Item = TypeVar("Item")

SILENCE = 2.0  # seconds before the first word


class Progress:
    """Says how long `label` has taken and how long it will.

    `seconds` is an estimate for the whole, known beforehand (the plan's, say); with `total` steps
    the steps done so far replace it. A terminal gets one line that moves, a log a new line after
    ten seconds and then ever more rarely.
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
        self._live = self._stream.isatty()
        self._stop = threading.Event()
        self._start = 0.0

    def advance(self, note: str = "") -> None:
        """One more step is done; `note` is shown behind the count ("loss 0.12")."""
        self.done += 1
        self.note = note

    @property
    def elapsed(self) -> float:
        """Seconds since the block began."""
        return time.monotonic() - self._start

    def line(self) -> str:
        """What is shown now."""
        parts = [f"{self.elapsed:.0f} s"]
        if self.total:
            parts.insert(0, f"{self.done}/{self.total}")
            whole = self.elapsed / self.done * self.total if self.done else self.seconds
            if whole is not None:
                parts.append(f"about {max(0.0, whole - self.elapsed):.0f} s left")
        elif self.seconds is not None:
            parts[0] += f" of about {self.seconds:.0f} s"
        if self.note:
            parts.append(self.note)
        return f"{self.label}: " + ", ".join(parts)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._tick, daemon=True)
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
            self._show(f"{self.label}: {word} {self.elapsed:.1f} s", last=True)

    def _tick(self) -> None:
        pause = SILENCE
        while not self._stop.wait(pause):
            self._show(self.line(), last=False)
            pause = 0.5 if self._live else max(10.0, self.elapsed / 2)

    def _show(self, text: str, *, last: bool) -> None:
        if self._live:
            self._stream.write(f"\r\x1b[K{text}" + ("\n" if last else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def track(items: Sequence[Item], label: str, *, seconds: float | None = None) -> Iterator[Item]:
    """The items one by one, with count and time left on stderr; `seconds` is a guess for each."""
    whole = None if seconds is None else seconds * len(items)
    with Progress(label, total=len(items), seconds=whole) as progress:
        for item in items:
            yield item
            progress.advance()
