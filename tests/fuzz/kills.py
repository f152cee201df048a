"""Commands killed at random moments: the same command runs again, and nothing stays behind.

`python -m tests.fuzz.kills --moments 25` kills each of the commands that often; about ten seconds a
kill. Half of the commands replace an earlier result. What is in the temporary folder afterwards
is counted by who made it; what begins with `torusformer.` must be gone.
"""

from __future__ import annotations

import argparse
import json
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

ROOT = Path(__file__).parents[2]
LINES = {
    "train": "train --preset tiny --epochs 1 --out out/train",
    "compile": "compile program.onnx --out out/deployment",
    "run": "run --program program.onnx --task digits --fhe execute",
    "tune": "tune --preset tiny --epochs 1 --trials 1 --out out/tune",
}


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


class Place:
    """A folder with a program, in which commands are run and killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.temporary = folder, folder / "out", folder / "tmp"
        self.out.mkdir(exist_ok=True)
        self.temporary.mkdir(exist_ok=True)

    def start(self, line: str) -> subprocess.Popen[bytes]:
        """A command, quiet, with a temporary folder of its own."""
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
def place_with_program() -> Iterator[Place]:
    """A place with a trained and lowered model."""
    with tempfile.TemporaryDirectory(prefix="kills.") as folder:
        place = Place(Path(folder))
        for line in (
            "train --preset tiny --epochs 1 --out model",
            "lower model/model.qonnx.onnx --out program.onnx",
        ):
            place.timed(line)
        yield place


def main(argv: Sequence[str] | None = None) -> int:
    """Kill the commands, print a JSON line for each moment; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--moments", type=int, default=25, help="for each command, default 25")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=LINES, help="one of the commands")
    args = parser.parse_args(argv)
    faults = 0
    with place_with_program() as place:
        for name in [args.only] if args.only else LINES:
            tally = None
            for tally in kill_at_random(place, LINES[name], args.moments, args.seed):
                print(json.dumps({"command": name, **vars(tally)}), flush=True)
            faults += len(tally.faults) if tally else 0
    print(f"{faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
