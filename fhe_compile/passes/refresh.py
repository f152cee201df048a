"""Look narrow results up once more before a sum that is read at high precision.

Concrete has one set of parameters for all tables of a width. Where some of them write into a wide
sum, all of them need the precise set, at twice the price. An identity table of their narrow result
has a width of its own: it alone is precise then, and those before it are cheap.

Worked example: 400 tables of 4 bits, 60 of which give two bits each to logits of 8 bits: 460
lookups, 60 of them precise and of 2 bits, in place of 400 precise ones of 4 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeGuard

from fhe_compile.bounds import Interval, analyze
from fhe_compile.passes.sink_rounds import identity_table
from fhe_compile.program import Linear, Node, Program, Reshape, Table, Transpose

WIDEST = 3  # bits of a result that may be worth a second table


def refresh_outputs(program: Program, known: Mapping[str, Interval] | None = None) -> Program:
    """The same program with a second table before each `Linear` that only outputs read.

    `known` holds ranges proved before products were expanded.
    """
    readers, ranges = program.consumers(), analyze(program, known)
    made = {node.name: node for node in program.nodes}
    fresh: dict[str, Table] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        last = isinstance(node, Linear) and not _looked_up(node.name, readers)
        source = made.get(node.inputs[0]) if last else None
        if not _is_table(source, made) or ranges[source.name].span_bits > WIDEST:
            nodes.append(node)
            continue
        if source.name not in fresh:
            name = f"{source.name}.fresh"
            fresh[source.name] = identity_table(name, source, ranges[source.name])
            nodes.append(fresh[source.name])
        nodes.append(replace(node, inputs=(fresh[source.name].name,)))
    return program.replace(nodes=tuple(nodes))


def _is_table(node: Node | None, made: Mapping[str, Node]) -> TypeGuard[Node]:
    """Whether the value is what a table gave, in whatever shape."""
    while isinstance(node, Reshape | Transpose):
        node = made.get(node.inputs[0])
    return isinstance(node, Table)


def _looked_up(name: str, readers: dict[str, list[Node]]) -> bool:
    """Whether a table or a rounding reads the value, directly or as part of another one."""
    return any(
        node.op in ("Table", "Round") or _looked_up(node.name, readers)
        for node in readers.get(name, [])
    )
