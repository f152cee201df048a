"""Encodings of several functions and what passes between them in, one encoding of all out.

The functions of a module share their keys, so what one needs all of them get: layouts are as wide
and tables as precise as the most demanding function asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torusformer.fhe_compile.tfhe.steps import EncodedPort, Encoding, shared_widths


@dataclass(frozen=True)
class Wire:
    """Output number `output` of function `source` goes to input number `input` of `target`."""

    source: str
    output: int
    target: str
    input: int


def join(
    functions: Mapping[str, Encoding], wires: Sequence[Wire]
) -> tuple[Encoding, dict[str, Encoding]]:
    """All functions as one encoding, and each with the layouts that it has among the others."""
    starts: dict[str, int] = {}
    count = 0
    for name, encoding in functions.items():
        starts[name] = count
        count += len(encoding.steps)
    steps = tuple(
        replace(step, args=tuple(starts[name] + arg for arg in step.args))
        for name, encoding in functions.items()
        for step in encoding.steps
    )
    links = tuple(
        (
            starts[wire.source] + functions[wire.source].outputs[wire.output].step,
            starts[wire.target] + functions[wire.target].inputs[wire.input].step,
        )
        for wire in wires
    )
    widths = shared_widths(steps, links)

    def moved(port: EncodedPort, name: str) -> EncodedPort:
        return replace(port, step=starts[name] + port.step)

    whole = Encoding(
        steps,
        tuple(moved(port, name) for name, e in functions.items() for port in e.inputs),
        tuple(moved(port, name) for name, e in functions.items() for port in e.outputs),
        widths,
        links,
    )
    parts = {
        name: replace(encoding, widths=widths[starts[name] : starts[name] + len(encoding.steps)])
        for name, encoding in functions.items()
    }
    return whole, parts
