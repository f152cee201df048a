"""Functions whose ciphertexts go from one to the other in, their wires and common layouts out.

Which output goes to which input is told by name: an output and an input that are called alike are
two ends of a wire, and `feedback` names pairs that are called differently. Functions of a module
share their keys, so what one needs all of them get: layouts are as wide and tables as precise as
the most demanding function asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torusformer import InputError
from torusformer.fhe_compile.program.nodes import Port, Program
from torusformer.fhe_compile.tfhe.encoding import EncodedPort, Encoding, shared_widths


@dataclass(frozen=True)
class Wire:
    """Output number `output` of function `source` goes to input number `input` of `target`."""

    source: str
    output: int
    target: str
    input: int


def wired_ports(
    programs: Mapping[str, Program], feedback: Mapping[str, str]
) -> dict[str, dict[str, Port]]:
    """By function, the names of its ports on wires, each with bounds that hold at every end.

    InputError where the shapes of both ends differ.
    """
    taken: dict[str, list[Port]] = {}
    given: dict[str, list[Port]] = {}
    for program in programs.values():
        for port in program.inputs:
            taken.setdefault(port.name, []).append(port)
        for port in program.outputs:
            given.setdefault(feedback.get(port.name, port.name), []).append(port)
    wide: dict[str, Port] = {}
    for name in taken.keys() & given.keys():
        ports = [*taken[name], *given[name]]
        if shapes := {port.shape for port in ports} - {ports[0].shape}:
            raise InputError(
                f"{name!r} is given out as {given[name][0].shape} and taken in as "
                f"{ports[0].shape} or {min(shapes)}; a wire keeps its shape"
            )
        wide[name] = replace(
            ports[0], lo=min(port.lo for port in ports), hi=max(port.hi for port in ports)
        )
    return {
        function: {
            port.name: wide[wire]
            for port, wire in [
                *((port, port.name) for port in program.inputs),
                *((port, feedback.get(port.name, port.name)) for port in program.outputs),
            ]
            if wire in wide
        }
        for function, program in programs.items()
    }


def wires_between(
    encodings: Mapping[str, Encoding], feedback: Mapping[str, str]
) -> tuple[Wire, ...]:
    """Every pair of an output and an input of one name."""
    inputs: dict[str, list[tuple[str, int]]] = {}
    for function, encoding in encodings.items():
        for i, port in enumerate(encoding.inputs):
            inputs.setdefault(port.port.name, []).append((function, i))
    return tuple(
        Wire(function, i, target, position)
        for function, encoding in encodings.items()
        for i, port in enumerate(encoding.outputs)
        for target, position in inputs.get(feedback.get(port.port.name, port.port.name), [])
    )


def share_layouts(
    functions: Mapping[str, Encoding], wires: Sequence[Wire]
) -> tuple[Encoding, dict[str, Encoding]]:
    """All functions as one encoding, and each with the layouts that it has among the others."""
    starts: dict[str, int] = {}
    count = 0
    for name, encoding in functions.items():
        starts[name] = count
        count += len(encoding.operations)
    operations = tuple(
        replace(op, args=tuple(starts[name] + arg for arg in op.args))
        for name, encoding in functions.items()
        for op in encoding.operations
    )
    links = tuple(
        (
            starts[wire.source] + functions[wire.source].outputs[wire.output].operation,
            starts[wire.target] + functions[wire.target].inputs[wire.input].operation,
        )
        for wire in wires
    )
    widths = shared_widths(operations, links)

    def moved(port: EncodedPort, name: str) -> EncodedPort:
        return replace(port, operation=starts[name] + port.operation)

    whole = Encoding(
        operations,
        tuple(moved(port, name) for name, e in functions.items() for port in e.inputs),
        tuple(moved(port, name) for name, e in functions.items() for port in e.outputs),
        widths,
        links,
    )
    parts = {
        name: replace(
            encoding, widths=widths[starts[name] : starts[name] + len(encoding.operations)]
        )
        for name, encoding in functions.items()
    }
    return whole, parts
