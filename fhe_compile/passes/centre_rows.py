"""Look an index up in a table whose columns lie around zero.

    onehot @ W = onehot @ (W - c) + c, since the bits of an index sum to one

Every bit is a ciphertext with noise, set or not, and its weights multiply that noise: small ones
leave more room for what reads the result. The offset c, the nearest whole number to a column's
mean, costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import AddConst, Linear, Node, Program


def centre_rows(program: Program, _: PassOptions | None = None) -> Program:
    """The same program with smaller weights on one-hot rows."""
    nodes: list[Node] = []
    for node in program.nodes:
        if not isinstance(node, Linear) or not program.ranges[node.inputs[0]].one_hot:
            nodes.append(node)
            continue
        centre = np.rint(node.weight.mean(0)).astype(np.int64)
        if not centre.any():
            nodes.append(node)
            continue
        around = replace(node, name=f"{node.name}.centred", weight=node.weight - centre)
        nodes += [around, AddConst(node.name, node.layer, (around.name,), centre)]
    return program.rewritten(nodes)
