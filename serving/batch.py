"""Encrypted requests in, replies in their order out: a server process for each core.

One circuit run on all cores wastes about a fifth of them on waiting; a process a core, each with
one thread and its own share of the requests, does not. The price is memory: every process expands
the evaluation keys for itself.

The client, and with it the secret key, stays where it is: a worker gets the deployment's folder,
the evaluation keys and requests, all of them bytes that a server may see. `multiprocessing` pickles
the two paths it starts a worker with, from this process to its own child; requests, replies and
errors are sent as plain bytes, and nothing from outside is ever unpickled. Evaluation keys, which
can be gigabytes, go through a file that only this user can read and that is gone once all workers
have it.

    with Workers("deployment", client.evaluation_keys(), jobs=8) as workers:
        for reply in workers.run(client.encrypt(q_x) for q_x in samples):
            answer = client.decrypt(reply.message)

As every program with `spawn`, a script that does this needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from torusformer import ArtifactError, InputError, TorusformerError
from torusformer.serving.server import Server

_DONE, _MISTAKE, _BROKEN = b"d", b"m", b"b"  # first byte of what a worker says
_THREADS = "OMP_NUM_THREADS"


class WorkerError(TorusformerError):
    """A worker process that ended or failed before it answered."""


@dataclass(frozen=True)
class Reply:
    """The server's message to one request, and the seconds from sending to receiving it."""

    message: bytes
    seconds: float


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    index: int = -1  # of the request it works on
    since: float = 0.0


class Workers:
    """`jobs` server processes of one deployment, ready when the `with` block begins."""

    def __init__(self, folder: str | Path, evaluation_keys: bytes, jobs: int) -> None:
        if jobs < 1:
            raise InputError(f"jobs is {jobs}; give at least one worker process")
        self.folder, self.jobs = Path(folder), jobs
        self._evaluation_keys = evaluation_keys
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        try:
            with tempfile.TemporaryDirectory(prefix="torusformer.") as private:  # mode 700
                path = Path(private) / "evaluation-keys"
                path.touch(mode=0o600)
                path.write_bytes(self._evaluation_keys)
                for _ in range(self.jobs):
                    self._workers.append(_start(self.folder, path))
                for worker in self._workers:
                    self._receive(worker)  # "ready": it has read the keys
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def run(self, requests: Iterable[bytes]) -> Iterator[Reply]:
        """Replies in the order of the requests, which are taken only as workers become free."""
        waiting = enumerate(requests)
        early: dict[int, Reply] = {}
        following = 0  # index of the reply to give next
        busy = [worker for worker in self._workers if self._give(worker, waiting)]
        while busy:
            by_pipe = {worker.pipe: worker for worker in busy}
            for pipe in wait(list(by_pipe)):
                assert isinstance(pipe, Connection)
                worker = by_pipe[pipe]
                message = self._receive(worker)
                early[worker.index] = Reply(message, time.monotonic() - worker.since)
                if not self._give(worker, waiting):
                    busy.remove(worker)
            while following in early:
                yield early.pop(following)
                following += 1

    def _give(self, worker: _Worker, waiting: Iterator[tuple[int, bytes]]) -> bool:
        """Send the next request, if there is one."""
        index, request = next(waiting, (-1, b""))
        if index < 0:
            return False
        worker.index, worker.since = index, time.monotonic()
        try:
            _send(worker.pipe, request)
        except OSError:  # it is gone; `_receive` says how
            self._receive(worker)
        return True

    def _receive(self, worker: _Worker) -> bytes:
        """What a worker says next; its error is raised here."""
        number = self._workers.index(worker) + 1
        try:
            said = worker.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            worker.process.join(timeout=5)
            raise WorkerError(
                f"worker {number} of {self.jobs} ended with exit code {worker.process.exitcode} "
                f"before it answered, perhaps for lack of memory: each one holds the evaluation "
                f"keys; take fewer --jobs"
            ) from error
        state, body = said[:1], said[1:]
        if state == _MISTAKE:
            raise ArtifactError(body.decode())
        if state == _BROKEN:
            raise WorkerError(
                f"worker {number} of {self.jobs} failed with {body.decode()}; the others were "
                f"stopped"
            )
        return body

    def _stop(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers = []


def _start(folder: Path, keys: Path) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked one would inherit the secret key
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(folder, keys, there), daemon=True)
    with _one_thread():
        process.start()
    there.close()  # so that the end of the worker is the end of the pipe
    return _Worker(process, here)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started in this block compute in one thread.

    The child finds it in its environment before it imports anything. Setting it in the child is
    late: to start there, it imports this package and with it Concrete, BLAS and their threads.
    """
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_THREADS]
        if before is not None:
            os.environ[_THREADS] = before


def _send(pipe: Connection, message: bytes) -> None:
    """Send; OSError if nobody reads.

    Once Concrete has run a circuit, its handler turns the signal of a broken pipe, which Python
    ignores, into a crash: so the signal is held back and dropped.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        pipe.send_bytes(message)
    finally:
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(folder: Path, keys: Path, pipe: Connection) -> None:
    """A worker: read the keys, say ready, answer requests until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    try:
        server = Server(folder)
        evaluation_keys = server.load_keys(keys.read_bytes())
        _send(pipe, _DONE)
        while True:
            request = pipe.recv_bytes()
            _send(pipe, _DONE + server.run(request, evaluation_keys))
    except (EOFError, ConnectionError):  # the parent is done, or gone
        return
    except TorusformerError as error:
        _send(pipe, _MISTAKE + str(error).encode())
    except Exception as error:  # whatever Concrete raises, the parent has to hear of it
        _send(pipe, _BROKEN + f"{type(error).__name__}: {error}".encode())
