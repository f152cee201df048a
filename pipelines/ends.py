"""How a command ends from outside: a signal that stops it, a reader that leaves, a full device."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from torusformer.work import scratch_folder

STOPPING = (signal.SIGTERM, signal.SIGHUP)
PIPE_CLOSED = 128 + signal.SIGPIPE  # as a shell counts
AT_ONCE = 5.0  # seconds: `timeout` and some shells send a signal twice


@contextmanager
def stopping() -> Iterator[list[int]]:
    """A block that SIGTERM and SIGHUP end as Ctrl-C does; their numbers are in the list then.

    A signal that the caller ignores or handles stays the caller's.
    """
    came: list[int] = []
    last = -AT_ONCE

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last >= AT_ONCE:  # else it would end the cleaning up
            last = time.monotonic()
            came.append(number)
            raise KeyboardInterrupt

    free: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        free = [s for s in STOPPING if signal.getsignal(s) == signal.SIG_DFL]
    for number in free:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def no_pipe_signal() -> Iterator[None]:
    """A block in which a closed pipe is a BrokenPipeError and no more, in its new threads too.

    Python ignores the signal of a closed pipe, but Concrete, once it has run a circuit, makes a
    crash of it: so the signal is held back and dropped.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def own_temporary_files() -> Iterator[None]:
    """A block whose temporary files, those of libraries too, are gone behind it.

    They are in a scratch folder, so what a kill leaves is removed by the next command.
    """
    before, place = tempfile.tempdir, os.environ.get("TMPDIR")
    with ExitStack() as stack:
        with suppress(OSError):  # there is no room for any: most commands need none
            folder = str(stack.enter_context(scratch_folder()))
            tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR", None)
            if place is not None:
                os.environ["TMPDIR"] = place


def prepare_streams() -> None:
    """Streams that take any text: signs that they have no code for are written as escapes."""
    if sys.stderr is None:  # closed by who started us: what is said goes nowhere
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop(stream: TextIO) -> None:
    """Send what a stream still holds nowhere, so that the interpreter's last flush is quiet."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # it may have no file behind it
        os.dup2(null, stream.fileno())
    os.close(null)
