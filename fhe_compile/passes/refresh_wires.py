"""Look up once more what leaves on a wire, unless a table made it.

A ciphertext that goes round between functions must not gather noise: on every wire is the fresh
result of a bootstrap, which is also what the readers at the other end are planned for. An input
that leaves as it came was fresh already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.refresh import is_fresh, passes_through
from torusformer.fhe_compile.passes.sink_rounds import identity_table
from torusformer.fhe_compile.program.nodes import Node, Program


def refresh_wires(program: Program, options: PassOptions) -> Program:
    """The same program whose `wired` outputs are tables, or tables shifted or in another shape.

    With `fresh_indices`, a one-hot output gets a table of its own whatever made it: what is looked
    up for it has large weights, and only that table has to be precise then.
    """
    made: Mapping[str, Node] = {node.name: node for node in program.nodes}
    stale = {
        port.name
        for port in program.outputs
        if port.name in options.wired
        and not passes_through(port.name, made)
        and not (is_fresh(port.name, made) and not (options.fresh_indices and port.one_hot))
    }
    if not stale:
        return program
    ranges = program.ranges
    nodes: list[Node] = []
    for node in program.nodes:
        if node.name not in stale:
            nodes.append(node)
            continue
        before = replace(node, name=f"{node.name}.stale")
        nodes += [before, identity_table(node.name, before.name, node.layer, ranges[node.name])]
    proved = {f"{name}.stale": program.proved[name] for name in stale & program.proved.keys()}
    return program.rewritten(nodes, proved)
