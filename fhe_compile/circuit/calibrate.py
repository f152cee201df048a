"""This machine in, its list of prices out: bootstraps of every kind, run encrypted.

What a bootstrap takes follows from its parameters, so each set of parameters is measured once,
whatever widths and failure probabilities it serves. Time is by the wall clock, the least of several
runs with all threads busy: leave the machine alone meanwhile. Tables of more than `WIDEST` bits
take minutes for their keys; their time is extrapolated from the widest measured, by work.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from torusformer.fhe_compile.circuit.circuit import compile_program
from torusformer.fhe_compile.circuit.survey import HIGHEST, LOWEST, key_sizes, table_program
from torusformer.fhe_compile.prices.cost import PriceList, price_list
from torusformer.fhe_compile.prices.failure import EXACT, MODES
from torusformer.fhe_compile.prices.parameters import KeySizes, parameters_for
from torusformer.fhe_compile.prices.timings import Timings, find_timings, this_machine, threads

WIDEST = 6
RUNS = 3
PROBED = 4  # bits of the tables that a probe runs
METHOD = "wall seconds of one run with all threads busy, the least of three, by elements"
MACHINE_STARTS = 2.0  # seconds that compiling and keys take, beside what grows with the key
KEY_MS_PER_MIB = 30.0  # only for the estimate of how long it will take


@dataclass(frozen=True)
class Sample:
    """A table of `bits` bits written at `width` bits: the smallest program with these `sizes`."""

    sizes: KeySizes
    bits: int
    width: int
    p_error: float

    @property
    def elements(self) -> int:
        """Enough to keep all threads busy for about half a second."""
        each = 32 * 2048 // self.sizes.big
        return threads() * max(4, min(32, each))


def samples(widest: int = WIDEST) -> list[Sample]:
    """One for each set of parameters that tables get, in all modes; lightest first."""
    found: dict[tuple[int, ...], Sample] = {}
    for p_error in MODES.values():
        parameters = parameters_for(p_error)
        for bits, sizes in parameters.cheap.items():
            for chosen, width in ((sizes, max(bits, LOWEST)), (parameters.precise[bits], HIGHEST)):
                kind = (chosen.glwe, chosen.polynomial, chosen.level, chosen.keyswitch)
                if bits <= widest:
                    found.setdefault(kind, Sample(chosen, bits, width, p_error))
    return sorted(found.values(), key=lambda sample: sample.sizes.work)


def expected_seconds(samples: list[Sample]) -> float:
    """How long measuring takes, by the list at hand."""
    known = find_timings()
    return sum(
        MACHINE_STARTS
        + (RUNS + 2) * s.elements * known.ms(s.sizes) / 1000
        + s.sizes.bootstrap_bytes / 2**20 * KEY_MS_PER_MIB / 1000
        for s in samples
    )


def calibrate(samples: list[Sample], progress: Callable[[], None]) -> Timings:
    """Measure one sample after the other; `progress` is called after each."""
    measured: dict[KeySizes, float] = {}
    spread, load = 1.0, os.getloadavg()[0]
    for sample in samples:
        sizes, runs = measure(sample)
        measured[sizes] = min(runs)
        spread = max(spread, max(runs) / min(runs))
        progress()
    machine = {
        **this_machine(),
        "date": datetime.date.today().isoformat(),
        "p_errors": dict(MODES),
        "method": METHOD,
        "spread": round(spread, 2),  # slowest by fastest run
        "load": round(load, 2),  # processes that ran when it began; both tell an idle machine
    }
    return Timings(machine, measured, "calibrated")


def probe() -> float:
    """How many times as long as listed a bootstrap takes here and now: seconds for the answer.

    One kind of them stands for all: the processor and what else runs on it are alike for each.
    """
    width = max(PROBED, LOWEST)
    sizes, runs = measure(Sample(parameters_for(EXACT).cheap[PROBED], PROBED, width, EXACT))
    return median(runs) / find_timings().ms(sizes)


def measure(sample: Sample) -> tuple[KeySizes, list[float]]:
    """The parameters that Concrete chose, and milliseconds of one bootstrap in each run."""
    program = table_program(sample.bits, sample.elements, sample.width)
    circuit = compile_program(program, p_error=sample.p_error)
    x = np.random.default_rng(0).integers(0, 2**sample.bits, sample.elements)
    circuit.keygen()
    request = circuit.encrypt({"x": x})
    circuit.run_encrypted(request)  # expands the keys
    runs = [_wall_ms(lambda: circuit.run_encrypted(request)) for _ in range(RUNS)]
    return key_sizes(circuit)["table"], [ms / sample.elements for ms in runs]


def _wall_ms(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return (time.monotonic() - start) * 1000


def prices_of(timings: Timings) -> dict[str, PriceList]:
    """The price list of every mode."""
    return {
        name: price_list(parameters_for(p_error), timings, p_error)
        for name, p_error in MODES.items()
    }
