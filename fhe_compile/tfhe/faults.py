"""Program and inputs in, integers out as if bootstraps failed now and then: accuracy under `fast`.

A bootstrap that fails reads its input one step off. So every element of every table of the
expanded program reads a neighbour with probability p_error, up or down, and every rounding ends one
step off with probability p_error for each bit it drops; at the end of a proved range the step goes
inwards. Real failures are at most as frequent and some do less: a plan's `failure_probability`
bounds them from above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torusformer.fhe_compile.prices.failure import check_p_error, failure_probability
from torusformer.fhe_compile.program.nodes import IntArray, Program, Round, Table
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class FaultyRun:
    """Output integers by name, and how many bootstraps were made to fail."""

    outputs: dict[str, IntArray]
    faults: int


class FaultyInterpreter:
    """Runs one expanded program again and again, each time with new faults from `rng`."""

    def __init__(self, expanded: Program, p_error: float, rng: np.random.Generator) -> None:
        self.program, self.rng = expanded, rng
        self.p_error = check_p_error(p_error)
        self.ranges = expanded.ranges
        self.read_by_nodes = expanded.consumers().keys()

    def run(self, inputs: Mapping[str, IntArray]) -> FaultyRun:
        """Integers of the ports' shapes by name in, and out."""
        faults = 0
        values = {p.name: np.asarray(inputs[p.name], dtype=np.int64) for p in self.program.inputs}
        for node in self.program.nodes:
            args = [values[name] for name in node.inputs]
            if isinstance(node, Table):
                args[0], count = self._step(args[0], self.ranges[node.inputs[0]], 1)
                faults += count
            value = node.evaluate(args)
            if isinstance(node, Round) and node.name in self.read_by_nodes:
                value, count = self._step(value, self.ranges[node.name], node.lsbs)
                faults += count
            values[node.name] = value
        outputs = {port.name: values[port.name] for port in self.program.outputs}
        return FaultyRun(outputs, faults)

    def _step(self, x: IntArray, within: Interval, chances: int) -> tuple[IntArray, int]:
        """Elements of x one step off where any of `chances` bootstraps fails, and how many.

        What an earlier fault has carried out of its proved range reads the end of the table.
        """
        x = np.clip(x, within.lo, within.hi)
        hit = self.rng.random(x.shape) < failure_probability(chances, self.p_error)
        up = ((self.rng.random(x.shape) < 0.5) | (x == within.lo)) & (x < within.hi)
        stepped = np.where(hit, np.where(up, x + 1, x - 1), x)
        return np.maximum(stepped, within.lo), int(hit.sum())
