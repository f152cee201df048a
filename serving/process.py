"""Foreign bytes in, answers out, by a process that may die of them: this one does not.

Concrete computes with keys and ciphertexts by what they say of themselves, in C++. What can be
checked is checked before (`declared.py`); of the rest, a process dies and its client is told. Each
client's evaluation keys have a process of their own, in which they stay expanded.

The client, and with it the secret key, stays where it is: a process gets a circuit's files,
evaluation keys and requests, all of them bytes that a server may see. It is a fresh interpreter,
not a copy of this one, and nothing is pickled on the way.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from torusformer import InputError, TorusformerError
from torusformer.serving.child import DONE, receive_pieces, send_pieces

_CHILD = Path(__file__).with_name("child.py")
_THREADS = "OMP_NUM_THREADS"
_PATIENCE = 5.0  # seconds for a process to end once its end of the socket is closed
TIME_LIMIT = 3600.0  # seconds for one request: far above what any circuit of ours takes
_VMSTAT = Path("/proc/vmstat")


class WorkerError(TorusformerError):
    """A worker process that ended or failed before it answered."""


class Process:
    """One circuit with one client's keys, in a process of its own.

    `send` and `receive` are for whoever waits for several; `ask` is both, one thread at a time.
    From `send` to the end of `receive` it has `time_limit` seconds; a process that needs more is
    killed, so that none that hangs holds up a server.
    """

    def __init__(
        self, what: str, threads: int | None = None, time_limit: float = TIME_LIMIT
    ) -> None:
        if not 0 < time_limit <= threading.TIMEOUT_MAX:
            raise InputError(
                f"a time limit of {time_limit} s; give seconds above 0, the default is "
                f"{TIME_LIMIT:.0f}"
            )
        self.what, self.time_limit = what, time_limit
        self._late, self._timer = threading.Event(), threading.Timer(0, lambda: None)
        self._oom_kills = _oom_kills()
        here, there = socket.socketpair()
        with there:
            self.inner = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD), str(there.fileno())],
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                env=_environment(threads),
            )
        self.pipe = Connection(here.detach())
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end, self.inner, self.pipe)  # and when Python ends

    def load(self, files: Mapping[str, bytes], evaluation_keys: bytes) -> None:
        """Send a circuit's files and keys; `receive` gives nothing once they are read."""
        pieces = [piece for name, data in files.items() for piece in (name.encode(), data)]
        self.send([evaluation_keys, *pieces])

    def ask(self, function: str, inputs: Sequence[bytes]) -> list[bytes]:
        """All outputs of a function, serialized as its inputs are."""
        with self._lock:
            try:
                self.send([function.encode(), *inputs])
                return self.receive()
            except WorkerError:
                raise
            except BaseException:  # its answer, which nobody takes, would be the next one's
                self.close()
                raise

    def send(self, pieces: Sequence[bytes]) -> None:
        """WorkerError if the process has ended, or takes nothing until the time limit."""
        self._timer = threading.Timer(self.time_limit, _stop_late, (self.inner, self._late))
        self._timer.daemon = True
        self._timer.start()
        try:
            with _broken_pipes_are_errors():
                send_pieces(self.pipe, pieces)
        except OSError as error:
            raise self._ended() from error

    def receive(self) -> list[bytes]:
        """What it answers; WorkerError if it ended, ran out of time, or if Concrete refused."""
        try:
            state, *pieces = receive_pieces(self.pipe)
        except (EOFError, OSError) as error:
            raise self._ended() from error
        finally:
            self._timer.cancel()
        if state != DONE:
            raise WorkerError(f"{self.what} failed with {pieces[0].decode()}")
        return pieces

    def close(self) -> None:
        """End it, whatever it does."""
        self._timer.cancel()
        self._end()

    def _ended(self) -> WorkerError:
        """How it ended, which it has to have done by itself or does now."""
        if not self._end.alive:
            return WorkerError(f"{self.what} has ended; load the keys again")
        try:
            code = self.inner.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if self._late.is_set():
            return WorkerError(
                f"{self.what} gave no answer within {self.time_limit:g} s and was stopped; if the "
                "circuit needs longer, give the server a larger time_limit"
            )
        more = None if self._oom_kills is None else (_oom_kills() or 0) > self._oom_kills
        return WorkerError(f"{self.what} ended {_cause(code, more)} before it answered")


def _cause(code: int | None, out_of_memory: bool | None) -> str:
    """How a process ended; `out_of_memory`: whether the system killed any since it began, if known.

    Of a process that was killed, nothing but this tells who did it.
    """
    if code is None:
        return "its side of the connection"
    if code >= 0:
        return f"with exit code {code}"
    name = next((s.name for s in signal.Signals if s == -code), "no signal of this system")
    said = f"with exit code {code} ({name})"
    if code != -signal.SIGKILL:
        return said
    if out_of_memory:
        return f"{said}, killed by the system for lack of memory,"
    return f"{said}, killed from outside{' or for lack of memory' * (out_of_memory is None)},"


def _oom_kills() -> int | None:
    """How many processes this system has killed for lack of memory; None where it does not say."""
    try:
        lines = _VMSTAT.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _stop_late(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    pipe.close()
    process.kill()
    process.wait()


def _environment(threads: int | None) -> dict[str, str]:
    """Ours, by which it finds the same Concrete, and how many threads it computes in.

    It reads both before it imports anything; told later, BLAS and OpenMP would have their threads.
    """
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    count = {} if threads is None else {_THREADS: str(threads)}
    return {**os.environ, **count, "PYTHONPATH": paths}


@contextmanager
def _broken_pipes_are_errors() -> Iterator[None]:
    """Writing where nobody reads is an OSError in this block.

    Once Concrete has run a circuit, its handler turns the signal of a broken pipe, which Python
    ignores, into a crash: so the signal is held back and dropped.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
