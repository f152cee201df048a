"""Encrypted requests in, replies in their order out: a server process for each core.

One circuit run on all cores wastes about a fifth of them on waiting; a process a core, each with
one thread and its own share of the requests, does not. The price is memory: every process expands
the evaluation keys for itself.

    with Workers("deployment", client.evaluation_keys(), jobs=8) as workers:
        for reply in workers.run(client.encrypt(q_x) for q_x in samples):
            answer = client.decrypt(reply.message)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from torusformer import InputError
from torusformer.serving.lengths import LengthsServer
from torusformer.serving.process import TIME_LIMIT, Process, WorkerError
from torusformer.serving.server import EvaluationKeys, Server

__all__ = ["Reply", "WorkerError", "Workers"]


@dataclass(frozen=True)
class Reply:
    """The server's message to one request, and the seconds from sending to receiving it."""

    message: bytes
    seconds: float


@dataclass
class _Worker:
    keys: EvaluationKeys  # held, so that its process lives
    index: int = -1  # of the request it works on
    function: str = ""  # that it asks for
    since: float = 0.0

    @property
    def process(self) -> Process:
        return self.keys.process


class Workers:
    """`jobs` server processes of one deployment, ready when the `with` block begins.

    `kind` is the server's: `LengthsServer` for a deployment of several lengths.
    """

    def __init__(
        self,
        folder: str | Path,
        evaluation_keys: bytes,
        jobs: int,
        trust: str | Path | None = None,
        time_limit: float = TIME_LIMIT,
        kind: type[Server] | type[LengthsServer] = Server,
    ) -> None:
        if jobs < 1:
            raise InputError(f"jobs is {jobs}; give at least one worker process")
        self.folder, self.jobs, self._trust = Path(folder), jobs, trust
        self._time_limit = time_limit  # seconds for one request of one worker
        self._evaluation_keys, self._kind = evaluation_keys, kind
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        with ExitStack() as stack:
            self._server: Server | LengthsServer
            self._server = self._kind(
                self.folder, self._trust, threads=1, time_limit=self._time_limit
            )
            stack.callback(self._server.close)
            for number in range(1, self.jobs + 1):
                what = f"worker {number} of {self.jobs}"
                self._workers.append(_Worker(self._server.start_keys(self._evaluation_keys, what)))
            for worker in self._workers:
                worker.process.receive()  # it has read the keys
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def run(self, requests: Iterable[bytes]) -> Iterator[Reply]:
        """Replies in the order of the requests, which are taken only as workers become free.

        Where one cannot be answered, or replies are left, all workers are stopped.
        """
        if not self._workers:
            raise WorkerError("the workers have been stopped; begin another `with` block")
        done = False
        try:
            yield from self._replies(enumerate(requests))
            done = True
        finally:
            if not done:  # a reply that nobody takes would be the next request's
                self._stop()

    def _replies(self, waiting: Iterator[tuple[int, bytes]]) -> Iterator[Reply]:
        early: dict[int, Reply] = {}
        following = 0  # index of the reply to give next
        busy = [worker for worker in self._workers if self._give(worker, waiting)]
        while busy:
            by_pipe = {worker.process.pipe: worker for worker in busy}
            for pipe in wait(list(by_pipe)):
                assert isinstance(pipe, Connection)
                worker = by_pipe[pipe]
                message = self._server.reply(worker.function, worker.process.receive())
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
        call = self._server.call(request)
        worker.index, worker.since, worker.function = index, time.monotonic(), call.function
        worker.process.send([call.function.encode(), *call.arguments])
        return True

    def _stop(self) -> None:
        self._server.close()
        self._workers = []
