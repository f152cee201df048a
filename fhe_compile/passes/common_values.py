"""Compute a value once: of two nodes that do the same to the same inputs, keep the first."""

from __future__ import annotations

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import Program


def merge_common_values(program: Program, _: PassOptions | None = None) -> Program:
    """Readers of a repeated value read its first occurrence; outputs keep their own names."""
    outputs = {port.name for port in program.outputs}
    first: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    nodes = []
    for node in program.nodes:
        node = node.with_inputs(renamed.get(i, i) for i in node.inputs)
        found = first.setdefault((node.inputs, *node.content), node.name)
        if found != node.name and node.name not in outputs:
            renamed[node.name] = found
        else:
            nodes.append(node)
    return program.rewritten(nodes)
