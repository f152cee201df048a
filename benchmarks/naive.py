"""Integer program in; the circuit that one would write by hand in Concrete, without passes, out.

Every node is the Concrete operation of that name: products of ciphertexts are Concrete's own,
tables are `fhe.LookupTable`, roundings `fhe.truncate_bit_pattern`, and bit widths are those of the
sample inputs that Concrete is shown.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import (
    IntArray,
    Node,
    Port,
    Program,
    Round,
    Table,
)
from torusformer.fhe_compile.program.ranges import Interval


def compile_naive(
    program: Program, samples: Sequence[Mapping[str, IntArray]], p_error: float
) -> Any:
    """A Concrete circuit; its inputs in the order of the program's."""
    ranges = program.ranges
    names = [port.name for port in program.inputs]

    def main(**arguments: Any) -> Any:
        values: dict[str, Any] = dict(zip(names, arguments.values(), strict=True))
        for node in program.nodes:
            values[node.name] = trace(node, [values[i] for i in node.inputs], ranges)
        outputs = tuple(values[port.name] for port in program.outputs)
        return outputs if len(outputs) > 1 else outputs[0]

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(f"x{i}", kind) for i in range(len(names))]
    main.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    compiler = fhe.Compiler(main, {parameter.name: "encrypted" for parameter in parameters})
    inputset = [tuple(sample[name] for name in names) for sample in samples]
    configuration = fhe.Configuration(
        p_error=p_error, loop_parallelize=True, dump_artifacts_on_unexpected_failures=False
    )
    return compiler.compile(inputset if len(names) > 1 else [s[0] for s in inputset], configuration)


def trace(node: Node, args: list[Any], ranges: Mapping[str, Interval]) -> Any:
    """One node over tracers."""
    match node:
        case Table():
            return _lookup(node, args[0], ranges[node.inputs[0]])
        case Round():
            reach = ranges[node.inputs[0]]  # Concrete refuses to drop bits that no sample has
            ends = Port("", (), int(reach.lo.min()), int(reach.hi.max()))
            wide = fhe.hint(args[0], bit_width=ends.bit_width)
            kept = fhe.truncate_bit_pattern(wide, lsbs_to_remove=node.lsbs)
            kept = fhe.hint(kept, bit_width=ends.bit_width)
            return kept // 2**node.lsbs
    return node.evaluate(args)


def _lookup(node: Table, x: Any, reach: Interval) -> Any:
    """A table for each distinct offset, read from the lowest value it can be given."""
    offset = np.broadcast_to(node.offset, reach.shape)
    lo, hi = int(reach.lo.min()), int(reach.hi.max())
    size = 2 ** max(1, (hi - lo).bit_length())
    offsets, which = np.unique(offset, return_inverse=True)
    index = np.clip(offsets[:, None] + lo + np.arange(size), 0, len(node.values) - 1)
    tables = [fhe.LookupTable(node.values[row]) for row in index]
    shifted = x - lo if lo else x
    if len(tables) == 1:
        return tables[0][shifted]
    each = np.array(tables, dtype=object)
    return fhe.LookupTable(each[which.reshape(reach.shape)])[shifted]


def run_naive(circuit: Any, program: Program, inputs: Mapping[str, IntArray]) -> dict[str, Any]:
    """Seconds of one encrypted run, and whether it equals the interpreter."""
    arguments = [inputs[port.name] for port in program.inputs]
    circuit.keygen()
    start = time.monotonic()
    found = circuit.encrypt_run_decrypt(*arguments)
    seconds = time.monotonic() - start
    expected = interpret(program, inputs)
    results = found if isinstance(found, tuple) else (found,)
    exact = all(
        np.array_equal(result, expected[port.name])
        for result, port in zip(results, program.outputs, strict=True)
    )
    return {"seconds": round(seconds, 3), "bit_exact": exact}
