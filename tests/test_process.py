"""A process that may die or hang: what its client is told, and that nobody waits for ever."""

from __future__ import annotations

import errno
import os
import signal
import struct
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path

import pytest

from torusformer import InputError
from torusformer.serving import process
from torusformer.serving.child import REFUSED, _answer, receive_pieces
from torusformer.serving.process import Process, WorkerError


@pytest.fixture
def vmstat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system says how many processes it killed for lack of memory."""
    path = tmp_path / "vmstat"
    path.write_text("nr_free_pages 12\noom_kill 3\n")
    monkeypatch.setattr(process, "_VMSTAT", path)
    return path


@pytest.fixture
def child(vmstat: Path) -> Iterator[Process]:
    made = Process("the process")
    yield made
    made.close()


def _killed(child: Process, number: signal.Signals) -> str:
    child.inner.send_signal(number)
    child.inner.wait()
    with pytest.raises(WorkerError) as ended:
        child.ask("main", [])
    return str(ended.value)


def test_who_was_killed_from_outside_is_not_said_to_lack_memory(child: Process) -> None:
    said = _killed(child, signal.SIGKILL)
    assert said == (
        "the process ended with exit code -9 (SIGKILL), killed from outside, before it answered"
    )


def test_lack_of_memory_is_said_where_the_system_counts_it(child: Process, vmstat: Path) -> None:
    vmstat.write_text("nr_free_pages 12\noom_kill 4\n")
    assert "-9 (SIGKILL), killed by the system for lack of memory, before" in _killed(
        child, signal.SIGKILL
    )


def test_where_the_system_does_not_say_both_are_possible(vmstat: Path) -> None:
    vmstat.unlink()
    child = Process("the process")
    assert "killed from outside or for lack of memory, before" in _killed(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_any_other_signal_is_named_and_no_more(
    child: Process, vmstat: Path, number: signal.Signals
) -> None:
    vmstat.write_text("oom_kill 4\n")  # of some other process
    assert f"ended with exit code {-number} ({number.name}) before" in _killed(child, number)


def test_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text("raise SystemExit(3)")
    monkeypatch.setattr(process, "_CHILD", script)
    with pytest.raises(WorkerError, match="the process ended with exit code 3 before it answered"):
        Process("the process").ask("main", [])


@pytest.mark.parametrize("size", [1, 1 << 24], ids=["reads and hangs", "does not read"])
def test_a_process_that_hangs_is_stopped(vmstat: Path, size: int) -> None:
    child = Process("the process", time_limit=0.5)
    os.kill(child.inner.pid, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(WorkerError, match=r"no answer within 0\.5 s .* a larger time_limit"):
        child.ask("main", [bytes(size)])
    assert time.monotonic() - begun < 60
    assert child.inner.poll() == -signal.SIGKILL
    with pytest.raises(WorkerError, match="has ended; load the keys again"):
        child.ask("main", [])


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(InputError, match=r"a time limit of .* s; give seconds above 0"):
        Process("the process", time_limit=seconds)


@pytest.mark.parametrize(
    "sent", [b"", b"\0", struct.pack("!i", 100), struct.pack("!i", 100) + b"x"]
)
def test_whose_parent_is_killed_ends_in_silence(
    child: Process, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    os.write(child.pipe.fileno(), sent)
    child.pipe.close()
    assert child.inner.wait(timeout=60) == 0
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_an_answer() -> None:
    def full() -> list[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")

    here, there = Pipe()
    _answer(there, full)
    state, said = receive_pieces(here)
    assert (state, said) == (REFUSED, b"OSError: [Errno 28] No space left on device")
