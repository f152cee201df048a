"""Remove nodes that no output depends on."""

from __future__ import annotations

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import Program


def remove_dead_nodes(program: Program, _: PassOptions | None = None) -> Program:
    """Keep the nodes that an output reads, directly or through others; inputs all stay."""
    needed = {port.name for port in program.outputs}
    kept = []
    for node in reversed(program.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    return program.rewritten(reversed(kept))
