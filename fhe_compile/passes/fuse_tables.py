"""A table of a table is one table.

Only where the inner one has no other reader: else its own, narrower, result is cheaper to read.

Worked example: values [0, 1, 1] read by values [5, 7] is values [5, 7, 7].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fhe_compile.bounds import Interval, analyze
from fhe_compile.program import Node, Program, Table


def fuse_tables(program: Program, known: Mapping[str, Interval] | None = None) -> Program:
    """The same program without a `Table` that a single other `Table` reads.

    `known` holds ranges proved before products were expanded, which interval arithmetic over the
    expanded form cannot see.
    """
    readers, ranges = program.consumers(), analyze(program, known)
    outputs = {port.name for port in program.outputs}
    nodes: dict[str, Node] = {}
    for node in program.nodes:
        if isinstance(node, Table):
            inner = nodes.get(node.inputs[0])
            single = inner is not None and len(readers[inner.name]) == 1
            if isinstance(inner, Table) and single and inner.name not in outputs:
                node = _compose(inner, node, ranges[inner.name].shape)
                del nodes[inner.name]
        nodes[node.name] = node
    return program.replace(nodes=tuple(nodes.values()))


def _compose(inner: Table, outer: Table, shape: tuple[int, ...]) -> Table:
    offsets, which = np.unique(outer.offset, return_inverse=True)
    # One copy of the inner table for each offset of the outer, laid end to end. Entries that no
    # input reaches may point outside of the outer table: any value will do there.
    index = np.clip(inner.values + offsets[:, None], 0, len(outer.values) - 1)
    copy = which.reshape(outer.offset.shape) * len(inner.values)
    offset = inner.offset + (copy if len(offsets) > 1 else 0)
    assert np.broadcast_shapes(np.shape(offset), shape) == shape
    return Table(
        outer.name, outer.layer, inner.inputs, np.asarray(offset), outer.values[index].ravel()
    )
