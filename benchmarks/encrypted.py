"""A program and samples in; what its encrypted runs take and whether they are bit-exact, out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np

from benchmarks.runner import Bench
from torusformer.fhe_compile import Circuit, Program, compile_program, interpret
from torusformer.fhe_compile.circuit.circuit import EXACT
from torusformer.fhe_compile.program.nodes import IntArray

Inputs = Mapping[str, IntArray]


class Encrypted:
    """A program that is compiled, and given keys, when it is first run."""

    def __init__(self, program: Program, p_error: float = EXACT) -> None:
        self.program, self.p_error = program, p_error
        self._warm = False

    @cached_property
    def circuit(self) -> Circuit:
        """The compiled circuit."""
        return compile_program(self.program, p_error=self.p_error)

    def facts(self) -> dict[str, Any]:
        """What compilation alone tells."""
        circuit = self.circuit
        return {
            "pbs": circuit.plan.pbs_total,
            "complexity": circuit.complexity,
            "predicted_seconds": round(circuit.plan.predicted_seconds, 3),
            "key_bytes": circuit.key_bytes,
        }

    def run(self, inputs: Inputs) -> dict[str, Any]:
        """Seconds to encrypt, run and decrypt, and whether every integer is the interpreter's.

        The first run of a process expands the evaluation keys; it is not the one that is timed.
        """
        if not self._warm:
            self.circuit.keygen()
            self.circuit.run(inputs, fhe="execute")
            self._warm = True
        start = time.monotonic()
        found = self.circuit.run(inputs, fhe="execute")
        seconds = time.monotonic() - start
        expected = interpret(self.program, inputs)
        exact = all(np.array_equal(q_y, expected[name]) for name, q_y in found.items())
        return {"seconds": round(seconds, 3), "bit_exact": exact}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of encrypted runs of one program."""
    seconds = [run["seconds"] for run in runs]
    return {
        "runs": len(runs),
        "seconds_median": round(float(median(seconds)), 3),
        "seconds_all": seconds,
        "bit_exact": all(run["bit_exact"] for run in runs),
    }


def execute(
    bench: Bench, key: str, program: Program, samples: Sequence[Inputs], p_error: float = EXACT
) -> dict[str, Any]:
    """Compile and run each sample encrypted; every run is kept as soon as it is done."""
    encrypted = Encrypted(program, p_error)
    compiled = bench.keep(f"{key}.circuit", encrypted.facts)
    runs = []
    for i, inputs in enumerate(samples):
        made = bench.keep(f"{key}.{i}", encrypted.run, inputs)
        bench.say(f"{key} {i + 1}/{len(samples)}: {made['seconds']} s")
        runs.append(made)
    return {**compiled, **summary(runs), "p_error": p_error}
