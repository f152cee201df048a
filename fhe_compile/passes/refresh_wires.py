"""Look up once more what leaves on a wire, unless a table made it.

A ciphertext that goes round between functions must not gather noise: on every wire is the fresh
result of a bootstrap, which is also what the readers at the other end are planned for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from torusformer.fhe_compile.passes.sink_rounds import identity_table
from torusformer.fhe_compile.program.nodes import Node, Reshape, Table, Transpose
from torusformer.fhe_compile.program.ranges import Interval, analyze
from torusformer.fhe_compile.tfhe.expand import Expanded


def refresh_wires(expanded: Expanded, wired: Collection[str], *, one_hot: bool = False) -> Expanded:
    """The same program whose outputs named in `wired` are tables, or tables in another shape.

    With `one_hot`, a one-hot output gets a table of its own whatever made it: what is looked up for
    it has large weights, and only that table has to be precise then.
    """
    program = expanded.program
    made: Mapping[str, Node] = {node.name: node for node in program.nodes}
    ranges = analyze(program, expanded.known)
    stale = {
        port.name
        for port in program.outputs
        if port.name in wired
        and not (_is_fresh(port.name, made) and not (one_hot and port.one_hot))
    }
    if not stale:
        return expanded
    known: dict[str, Interval] = {
        f"{name}.stale" if name in stale else name: reach for name, reach in expanded.known.items()
    }
    nodes: list[Node] = []
    for node in program.nodes:
        if node.name not in stale:
            nodes.append(node)
            continue
        before = replace(node, name=f"{node.name}.stale")
        nodes += [before, identity_table(node.name, before.name, node.layer, ranges[node.name])]
    return replace(expanded, program=program.replace(nodes=tuple(nodes)), known=known)


def _is_fresh(name: str, made: Mapping[str, Node]) -> bool:
    node = made.get(name)
    while isinstance(node, Reshape | Transpose):
        node = made.get(node.inputs[0])
    return isinstance(node, Table)
