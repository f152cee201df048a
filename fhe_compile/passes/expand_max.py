"""Compute the larger of two encrypted numbers with one table.

    max(x, y) = y + relu(x - y)

Interval arithmetic cannot see that the sum is no larger than both, so the proved range of the
maximum itself is handed on.
"""

from __future__ import annotations

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import Add, Max, Node, Program, Sub, Table
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers


def expand_max(program: Program, _: PassOptions | None = None) -> Program:
    """The program without `Max`; what were maxima keep their ranges."""
    ranges, proved = program.ranges, dict[str, Interval]()
    nodes: list[Node] = []
    for node in program.nodes:
        if not isinstance(node, Max):
            nodes.append(node)
            continue
        name, layer, (x, y) = node.name, node.layer, node.inputs
        lo = int((ranges[x].lo - ranges[y].hi).min())
        hi = int((ranges[x].hi - ranges[y].lo).max())
        above = np.maximum(whole_numbers(layer, lo, hi), 0)
        nodes += [
            Sub(f"{name}.ahead", layer, (x, y)),
            Table(f"{name}.relu", layer, (f"{name}.ahead",), np.array(-lo), above),
            Add(name, layer, (y, f"{name}.relu")),
        ]
        proved[name] = ranges[name]
    return program.rewritten(nodes, proved)
