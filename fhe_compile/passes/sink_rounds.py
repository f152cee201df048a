"""Move every `Round` down to the tables that read it: TFHE rounds only what a table reads.

1. `Round` of `Round` is one `Round`.
2. `Round` then `AddConst` is `AddConst` of a shifted constant, then `Round`.
3. `Round` then `Reshape`, `Transpose`, `Slice` or `Concat` is the same, then `Round`.
4. Any other reader gets an identity `Table` in between.

Worked example: floor(x / 4) + 3 = floor((x + 12) / 4).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import (
    AddConst,
    Concat,
    Node,
    Program,
    Reshape,
    Round,
    Slice,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers


def sink_rounds(program: Program, _: PassOptions | None = None) -> Program:
    """The same program in which only tables and outputs read a `Round`."""
    return program.rewritten(_Sinking(program).nodes)


class _Sinking:
    def __init__(self, program: Program) -> None:
        self.nodes: list[Node] = []
        self.rounds: dict[str, Round] = {}  # by the name of the rounded value
        self.narrow: dict[str, str] = {}  # rounded value -> its identity table
        self.ranges = program.ranges
        self.readers = program.consumers()
        for node in program.nodes:
            self._place(node)

    def _place(self, node: Node) -> None:
        sources = [self.rounds.get(i) for i in node.inputs]
        rounds = [r for r in sources if r is not None]
        if not rounds or isinstance(node, Table):
            self._append(node)
        elif isinstance(node, Round):
            self._append(replace(node, inputs=rounds[0].inputs, lsbs=node.lsbs + rounds[0].lsbs))
        elif self._sinks_through(node, rounds):
            wide = node.with_inputs(r.inputs[0] for r in rounds)
            if isinstance(wide, AddConst):
                wide = replace(wide, value=wide.value << rounds[0].lsbs)
            wide = replace(wide, name=f"{node.name}.wide")
            self._append(wide)
            self._append(Round(node.name, node.layer, (wide.name,), rounds[0].lsbs))
        else:
            self._append(node.with_inputs(self._narrowed(i) for i in node.inputs))

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        if isinstance(node, Round):
            self.rounds[node.name] = node

    def _sinks_through(self, node: Node, rounds: list[Round]) -> bool:
        if isinstance(node, Concat):
            same = len({r.lsbs for r in rounds}) == 1
            return same and len(rounds) == len(node.inputs)
        if isinstance(node, Slice):  # unless the slices overlap and would round more elements
            source = node.inputs[0]
            sizes = sum(self.ranges[r.name].lo.size for r in self.readers[source])
            return sizes <= self.ranges[source].lo.size
        return isinstance(node, AddConst | Reshape | Transpose)

    def _narrowed(self, name: str) -> str:
        """The name of an encrypted value that holds the rounded number itself."""
        if name not in self.rounds:
            return name
        if name not in self.narrow:
            self.narrow[name] = f"{name}.narrow"
            layer = self.rounds[name].layer
            table = identity_table(self.narrow[name], name, layer, self.ranges[name])
            self.nodes.append(table)
        return self.narrow[name]


def identity_table(name: str, source: str, layer: str, x: Interval) -> Table:
    """A table that gives back what it reads, the value `source` of range x."""
    lo, hi = int(x.lo.min()), int(x.hi.max())
    return Table(name, layer, (source,), np.array(-lo), whole_numbers(layer, lo, hi))
