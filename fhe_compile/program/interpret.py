"""Integer program and integers in, integers out: the numpy oracle every other stage must equal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.program import Program


def interpret(program: Program, inputs: Mapping[str, IntArray]) -> dict[str, IntArray]:
    """Every value of the program by name, inputs included.

    `inputs` maps port names to int64 arrays of the port's shape.
    """
    values = {port.name: np.asarray(inputs[port.name], dtype=np.int64) for port in program.inputs}
    for node in program.nodes:
        values[node.name] = np.asarray(node.evaluate([values[i] for i in node.inputs]))
    return values
