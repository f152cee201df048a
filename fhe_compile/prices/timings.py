"""Parameters of a bootstrap in, milliseconds out: what one machine takes, and which machine it is.

Measured by `calibrate`, kept as data: the list that ships with the package
(`data/pbs_timings.json`) and the one of this machine in the user's cache folder. A bootstrap with
parameters that were not measured takes the time of the most similar ones, in proportion to work.
"""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import platformdirs

from torusformer import ArtifactError, __version__
from torusformer.fhe_compile.prices.parameters import KeySizes
from torusformer.strict_json import parse_json

FORMAT = "torusformer-prices"
FORMAT_VERSION = 1
BOUND_TO = ("processor", "threads", "concrete_python", "torusformer")


@dataclass(frozen=True)
class Timings:
    """Milliseconds per element of a large tensor with all cores busy, by parameters.

    `origin` is "given", "calibrated" or "shipped"; `note` is for the user's eyes, or empty.
    """

    machine: dict[str, Any]
    measured: dict[KeySizes, float]
    origin: str = "given"
    note: str = ""

    def ms(self, sizes: KeySizes) -> float:
        """Of one bootstrap, keyswitch included."""
        nearest = min(self.measured, key=lambda known: _distance(known, sizes))
        return self.measured[nearest] * sizes.work / nearest.work

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, as in the file."""
        rows = [{**vars(sizes), "ms": round(ms, 3)} for sizes, ms in sorted(self.measured.items())]
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "machine": self.machine,
            "bootstraps": rows,
        }


def _distance(known: KeySizes, sizes: KeySizes) -> tuple[bool, int, float]:
    """The same polynomials and digits first, then the same keyswitch, then about as much work."""
    alike = (known.glwe, known.polynomial, known.level) == (
        sizes.glwe,
        sizes.polynomial,
        sizes.level,
    )
    work = abs(math.log(known.work / sizes.work))
    return not alike, abs(known.keyswitch - sizes.keyswitch) if alike else 0, work


def threads() -> int:
    """Threads of one run."""
    if set_by_user := int(os.environ.get("OMP_NUM_THREADS", 0)):
        return set_by_user
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@lru_cache(maxsize=1)
def processor() -> str:
    """Name of the processor."""
    about = Path("/proc/cpuinfo")
    if about.is_file():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def this_machine() -> dict[str, Any]:
    """What a list of prices is bound to, here and now."""
    return {
        "processor": processor(),
        "threads": threads(),
        "concrete_python": metadata.version("concrete-python"),
        "torusformer": __version__,
    }


def difference(machine: dict[str, Any]) -> str:
    """What `machine` has that this one has not, in words; empty if nothing."""
    here = this_machine()
    wrong = [key for key in BOUND_TO if machine.get(key) != here[key]]
    words = [f"{key} {machine.get(key)}, here {here[key]}" for key in wrong]
    return "; ".join(words).replace("_", "-")


def cache_file() -> Path:
    """Where this machine's own list is kept."""
    return platformdirs.user_cache_path("torusformer", appauthor=False) / "prices.json"


def read_timings(path: Path) -> Timings:
    """Read a list of prices, whosever it is."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; write one with torusformer calibrate --out")
    try:
        return parse_timings(path.read_text())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: is not a price list of this release; write one with torusformer "
            f"calibrate --out"
        ) from error


def is_price_list(path: Path) -> bool:
    """Whether `calibrate` wrote it, so that it may be replaced."""
    try:
        read_timings(path)
    except ArtifactError:
        return False
    return True


def find_timings(path: Path | None = None) -> Timings:
    """The list at `path`, or else this machine's own, or else the one that ships.

    A list that is asked for by name is refused if it is another machine's or another release's.
    """
    if path is not None:
        timings = read_timings(path)
        if wrong := difference(timings.machine):
            raise ArtifactError(
                f"{path}: measured elsewhere ({wrong}); run torusformer calibrate here"
            )
        return timings
    note = ""
    if (own := cache_file()).is_file():
        try:
            timings = read_timings(own)
            wrong = difference(timings.machine)
        except ArtifactError:
            wrong = "it is damaged"
        if not wrong:
            return Timings(timings.machine, timings.measured, "calibrated")
        note = (
            f"the calibration of this user is not used ({wrong}); run torusformer calibrate again"
        )
    shipped = _shipped()
    return Timings(shipped.machine, shipped.measured, "shipped", note)


@lru_cache(maxsize=1)
def _shipped() -> Timings:
    file = resources.files("torusformer.fhe_compile.prices").joinpath("data/pbs_timings.json")
    return parse_timings(file.read_text())


def parse_timings(text: str) -> Timings:
    """Inverse of `Timings.to_json`; a ValueError, KeyError or TypeError if it is something else."""
    data = parse_json(text)
    if (data["format"], data["format_version"]) != (FORMAT, FORMAT_VERSION):
        raise ValueError(data["format_version"])
    measured = {}
    for row in data["bootstraps"]:
        if not all(type(row[key]) is int and 0 < row[key] < 2**32 for key in row if key != "ms"):
            raise ValueError(row)
        ms = float(row.pop("ms"))
        if not (ms > 0 and math.isfinite(ms)):
            raise ValueError(ms)
        sizes = KeySizes(**row)
        if not sizes.work > 0:  # a polynomial of one coefficient
            raise ValueError(row)
        measured[sizes] = ms
    if not measured:
        raise ValueError("empty")
    return Timings(dict(data["machine"]), measured)
