"""The integer program: what comes out of lowering and goes into every later stage.

A program is a list of nodes over integer tensors in static single assignment form. Each node is a
frozen dataclass that names its output (`name`), its inputs, and the layer of the model it came
from (`layer`, the tag under which bootstraps are counted). All arrays are int64.

>>> import numpy as np
>>> from torusformer.fhe_compile.program.nodes import Linear, Table
>>> program = Program(
...     inputs=(Port("x", (1, 2), lo=0, hi=3),),
...     outputs=(Port("y", (1, 1), lo=0, hi=9),),
...     nodes=(
...         Linear("acc", "fc", ("x",), np.array([[1], [2]])),
...         Table("y", "fc", ("acc",), np.array(0), np.arange(10)),
...     ),
... )
>>> int(program.ranges["acc"].hi.max())
9
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torusformer.fhe_compile.program.operators.base import Node
from torusformer.fhe_compile.program.port import Port
from torusformer.fhe_compile.program.ranges import MAX_NUMBERS, Interval, refuse_many


@dataclass(frozen=True, eq=False)
class Program:
    """Nodes in topological order between input and output ports.

    `metadata` holds strings a later stage or a reader wants: task, labels, preset. `proved` bounds
    values by what interval arithmetic cannot see in these nodes: of a product, say, before it
    became a sum of tables. `strategies` says of a product that was expanded how it is computed.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    proved: Mapping[str, Interval] = field(default_factory=dict)
    strategies: Mapping[str, str] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        """The node that makes the value `name`."""
        return next(n for n in self.nodes if n.name == name)

    def consumers(self) -> dict[str, list[Node]]:
        """For every value, the nodes that read it."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
        return readers

    @cached_property
    def ranges(self) -> Mapping[str, Interval]:
        """The proved interval of every value by name, inputs included."""
        return self.prove(MAX_NUMBERS)

    def prove(self, room: int) -> Mapping[str, Interval]:
        """`ranges`; a BitWidthError where values have more numbers together than `room`."""
        for port in self.inputs:
            refuse_many(f"input {port.name!r}", math.prod(port.shape), room)
            room -= math.prod(port.shape)
        ranges = {port.name: Interval.of(port) for port in self.inputs}
        for node in self.nodes:
            found = node.reach([ranges[name] for name in node.inputs], room)
            room -= found.lo.size
            proved = self.proved.get(node.name)
            ranges[node.name] = found.within(proved) if proved is not None else found
        return ranges

    def replace(self, **changes: object) -> Program:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def forgetting(self, names: Collection[str]) -> Program:
        """The same program without what was `proved` of values that are about to change."""
        kept = {name: reach for name, reach in self.proved.items() if name not in names}
        return dataclasses.replace(self, proved=kept)

    def rewritten(
        self, nodes: Iterable[Node], proved: Mapping[str, Interval] | None = None
    ) -> Program:
        """The same program of other nodes, with more `proved` of them.

        What was proved of values that are gone goes too; a value that stays must be the same.
        """
        nodes = tuple(nodes)
        names = {node.name for node in nodes}
        both = {**self.proved, **(proved or {})}
        kept = {name: reach for name, reach in both.items() if name in names}
        return dataclasses.replace(self, nodes=nodes, proved=kept)
