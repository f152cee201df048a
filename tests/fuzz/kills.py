"""Commands killed at random moments: the same command runs again, and nothing stays behind.

`python -m tests.fuzz.kills --moments 25` kills each of the commands that often; about ten seconds a
kill. With `--warm` a command is a fork of a process that has imported everything, so that all
kills fall into the work and none into the imports. Half of the commands replace an earlier
result. What is in the temporary folder afterwards is counted by who made it; what begins with
`torusformer.` must be gone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.programs import classifier
from torusformer.fhe_compile import save_program

ROOT = Path(__file__).parents[2]
LINES = {
    "train": "train --preset tiny --epochs 1 --out out/train",
    "compile": "compile program.onnx --out out/deployment",
    "run": "run --program program.onnx --input x.npy --integers --fhe execute",
    "run-deployment": "run --deployment deployment --input x.npy --integers",
    "tune": "tune --preset tiny --epochs 1 --trials 1 --out out/tune",
}
IMPORTED = (  # the slow ones; none of them starts a thread
    "torusformer.pipelines.cli",
    "torusformer.pipelines.training",
    "torusformer.pipelines.tuning",
    "torusformer.serving",
)


class CommandError(Exception):
    """A command that does not do what it should."""


@dataclass
class Tally:
    """What came of the kills of one command."""

    seconds: float
    killed: int = 0
    ended_before: int = 0
    left_beside: int = 0  # kills that left a work folder beside --out
    left_temporary: int = 0  # or where temporary files go
    faults: list[str] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)  # temporary files of libraries


class Fork:
    """A command in a fork of this process; waited for and killed as a `subprocess.Popen` is."""

    def __init__(self, place: Place, line: str) -> None:
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._work, args=(place, line))
        self.process.start()

    @staticmethod
    def _work(place: Place, line: str) -> None:
        from torusformer.pipelines.cli import main

        os.chdir(place.folder)
        os.environ["TMPDIR"], tempfile.tempdir = str(place.temporary), None
        quiet = os.open(os.devnull, os.O_RDWR)
        said = os.open(place.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for theirs, ours in ((quiet, 0), (quiet, 1), (said, 2)):
            os.dup2(theirs, ours)
        raise SystemExit(main(line.split()))

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; `subprocess.TimeoutExpired` while it has none."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("fork", timeout or 0.0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """To the command alone."""
        os.kill(self.process.pid or 0, number)


class Place:
    """A folder with a program, in which commands are run and killed."""

    def __init__(self, folder: Path, warm: bool = False) -> None:
        self.folder, self.out, self.temporary = folder, folder / "out", folder / "tmp"
        self.warm = warm
        self.out.mkdir(exist_ok=True)
        self.temporary.mkdir(exist_ok=True)

    def start(self, line: str) -> subprocess.Popen[bytes] | Fork:
        """A command, quiet, with a temporary folder of its own."""
        if self.warm:
            return Fork(self, line)
        env = {**os.environ, "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "torusformer", *line.split()]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": (self.folder / "said").open("wb")}
        return subprocess.Popen(argv, cwd=self.folder, env=env, **quiet)  # type: ignore[call-overload]

    def timed(self, line: str) -> float:
        """Run a command to its end; the seconds that it took."""
        started = time.monotonic()
        code = self.start(line).wait(timeout=600)
        said = (self.folder / "said").read_text(errors="replace")
        if code or "Traceback" in said:
            raise CommandError(f"{line}: exit code {code}: {said[-500:]}")
        return time.monotonic() - started

    def work_folders(self) -> tuple[list[str], list[str]]:
        """Work folders beside or in a result, and among the temporary files."""
        beside = [str(p.relative_to(self.out)) for p in self.out.rglob(".*")]
        return beside, [p.name for p in self.temporary.glob("torusformer.*")]

    def clear(self) -> None:
        """Forget all results."""
        for folder in (self.out, self.temporary):
            shutil.rmtree(folder)
            folder.mkdir()


def kill_at_random(place: Place, line: str, moments: int, seed: int) -> Iterator[Tally]:
    """Kill a command `moments` times; the tally so far after each."""
    place.clear()
    tally, draw = Tally(place.timed(line)), random.Random(seed)
    while tally.killed < moments:
        if tally.killed % 2:
            place.clear()
        process, delay = place.start(line), draw.uniform(0, tally.seconds)
        try:
            process.wait(timeout=delay)
            tally.ended_before += 1
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            tally.killed += 1
        beside, temporary = place.work_folders()
        tally.left_beside += bool(beside)
        tally.left_temporary += bool(temporary)
        where = f"kill {tally.killed}, {delay:.2f} s"
        try:
            tally.seconds = min(tally.seconds, place.timed(line))
        except CommandError as fault:
            tally.faults.append(f"{where}: {fault}")
        left = [*place.work_folders()[0], *place.work_folders()[1]]
        if left:
            tally.faults.append(f"{where}: {left} stay behind")
        tally.foreign = Counter(p.name[:3] for p in place.temporary.iterdir())
        yield tally


@contextmanager
def place_with_program(warm: bool) -> Iterator[Place]:
    """A place with a small program, its deployment and an input."""
    with tempfile.TemporaryDirectory(prefix="kills.") as folder:
        place = Place(Path(folder), warm)
        save_program(classifier(), Path(folder) / "program.onnx")
        np.save(Path(folder) / "x.npy", np.array([[3, 5]]))
        place.timed("compile program.onnx --out deployment")
        yield place


def main(argv: Sequence[str] | None = None) -> int:
    """Kill the commands, print a JSON line for each moment; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--moments", type=int, default=25, help="for each command, default 25")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=LINES, help="one of the commands")
    parser.add_argument("--warm", action="store_true", help="imports are done before")
    args = parser.parse_args(argv)
    faults = 0
    for module in IMPORTED if args.warm else ():
        importlib.import_module(module)
    with place_with_program(args.warm) as place:
        for name in [args.only] if args.only else LINES:
            tally = None
            for tally in kill_at_random(place, LINES[name], args.moments, args.seed):
                print(json.dumps({"command": name, **vars(tally)}), flush=True)
            faults += len(tally.faults) if tally else 0
    print(f"{faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
