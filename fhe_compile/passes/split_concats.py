"""Multiply the parts of a concatenation one by one.

    Concat(x, y) @ [A; B] = x @ A + y @ B

A concatenation has the noise of its noisiest part: fresh ciphertexts of the client would count as
results of tables, and what reads the sum would ask for dearer ones.
"""

from __future__ import annotations

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import Add, Concat, Linear, Node, Program


def split_concats(program: Program, _: PassOptions | None = None) -> Program:
    """The same program in which no `Linear` reads a `Concat` along its last axis."""
    shapes = {name: reach.shape for name, reach in program.ranges.items()}
    joined = {
        node.name: node
        for node in program.nodes
        if isinstance(node, Concat) and node.axis == len(shapes[node.name]) - 1
    }
    nodes: list[Node] = []
    for node in program.nodes:
        if not isinstance(node, Linear) or node.inputs[0] not in joined:
            nodes.append(node)
            continue
        sources = joined[node.inputs[0]].inputs
        ends = np.cumsum([shapes[source][-1] for source in sources])[:-1]
        total = ""
        for i, (source, weight) in enumerate(
            zip(sources, np.split(node.weight, ends), strict=True)
        ):
            part = Linear(f"{node.name}.part{i}", node.layer, (source,), weight)
            nodes.append(part)
            if i:
                name = node.name if i == len(sources) - 1 else f"{node.name}.sum{i}"
                nodes.append(Add(name, node.layer, (total, part.name)))
            total = nodes[-1].name
    return program.rewritten(nodes)
