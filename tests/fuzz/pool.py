"""Cases in, what came of each out: run in forked processes that may die, hang or ask for too much.

A case that ends in anything but success or a TorusformerError is a fault, and so is a numerical
warning (a user would read it beside the one sentence), a hang, a dead process, and memory above
the limit.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic

from tests.fuzz.case import Maker
from torusformer import TorusformerError

SECONDS = 10.0  # of a processor, for one case
WAITING = 60.0  # seconds of the clock, on a machine that does other things too
PAUSE = 5.0  # that a turn of the loop takes only where this process was stopped
MEMORY = 300 << 20  # bytes that one case may take; its files are small
ADDRESSES = 4 << 30  # bytes of address space beyond what the process began with
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Result:
    """`kind` and `seed` make the same case again; `outcome` is refused, accepted or fault."""

    kind: str
    seed: int
    outcome: str
    said: str = ""
    seconds: float = 0.0
    lost: bool = False  # the process hangs or is dead


class _Worker:
    """A forked process and the case that it is at."""

    def __init__(self, kinds: Mapping[str, Maker]) -> None:
        self.pipe, far = _FORK.Pipe()
        self.process = _FORK.Process(target=_serve, args=(kinds, far), daemon=True)
        self.process.start()
        far.close()
        self.case: tuple[str, int] | None = None
        self.began = self.used = 0.0

    def take(self, case: tuple[str, int]) -> None:
        self.case, self.began, self.used = case, monotonic(), self.processor_seconds()
        self.pipe.send(case)

    def processor_seconds(self) -> float:
        """That the process has had so far, its own and the system's for it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_cases(
    kinds: Mapping[str, Maker], cases: Iterable[tuple[str, int]], jobs: int = 1
) -> Iterator[Result]:
    """What came of each (kind, seed), in the order in which they end."""
    waiting = iter(cases)
    workers = [_Worker(kinds) for _ in range(jobs)]
    turn = monotonic()
    try:
        while True:
            if (lost := monotonic() - turn) > PAUSE:  # all of this was stopped from outside
                for worker in workers:
                    worker.began += lost
            turn = monotonic()
            for worker in workers:
                if worker.case is None and (case := next(waiting, None)) is not None:
                    worker.take(case)
            busy = [worker for worker in workers if worker.case is not None]
            if not busy:
                return
            wait([worker.pipe for worker in busy], timeout=0.5)
            for worker in busy:
                if (result := _result(worker)) is None:
                    continue
                if result.lost:
                    workers[workers.index(worker)] = _Worker(kinds)
                    worker.stop()
                worker.case = None
                yield result
    finally:
        for worker in workers:
            worker.stop()


def _result(worker: _Worker) -> Result | None:
    assert worker.case is not None
    kind, seed = worker.case
    seconds = monotonic() - worker.began
    if worker.pipe.poll():
        try:
            outcome, said = worker.pipe.recv()
        except EOFError:
            worker.process.join()
            said = f"the process died ({worker.process.exitcode})"
            return Result(kind, seed, "fault", said, seconds, lost=True)
        return Result(kind, seed, outcome, said, seconds)
    if seconds > WAITING or worker.processor_seconds() - worker.used > SECONDS:
        return Result(kind, seed, "fault", f"hung for {seconds:.0f} s", seconds, lost=True)
    return None


def _serve(kinds: Mapping[str, Maker], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (addresses + ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            kind, seed = pipe.recv()
        except EOFError:
            return
        pipe.send(run_case(kinds[kind], seed))


def run_case(make: Maker, seed: int) -> tuple[str, str]:
    """Outcome and message of one case, here."""
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = make(seed, Path(folder))
        warnings.simplefilter("error", RuntimeWarning)
        try:
            with _little_memory():
                case.run()
        except TorusformerError as error:
            said = str(error)
            return ("refused", said) if said.strip() else ("fault", f"{case.about}: says nothing")
        except BaseException:
            return "fault", f"{case.about}: {traceback.format_exc()}"
    return "accepted", ""


@contextmanager
def _little_memory() -> Iterator[None]:
    """MemoryError afterwards where the peak rises above the limit."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now
    before = _peak()
    yield
    if (taken := _peak() - before) > MEMORY:
        raise MemoryError(f"took {taken >> 20} MiB")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
