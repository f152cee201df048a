"""Find the largest of V encrypted numbers and say which it is, as a row of bits.

| step | bootstraps | reads |
|---|---|---|
| the maximum, by a tournament of `Max` | V - 1 | a bit more than the numbers have |
| equal to it or not | V | the numbers' bits |
| of those that are equal, the first | V | bits of V |

That the maximum is no smaller than each number is handed on as a proved range.

Worked example: [3, 7, 7, 1] has maximum 7, equality [0, 1, 1, 0], result [0, 1, 0, 0].
"""

from __future__ import annotations

import numpy as np

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import (
    AddConst,
    ArgMax,
    Broadcast,
    Concat,
    Linear,
    Max,
    Node,
    Program,
    Slice,
    Sub,
    Table,
)
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers


def expand_argmax(program: Program, _: PassOptions | None = None) -> Program:
    """The program without `ArgMax`; distances to the maximum have proved ranges."""
    ranges, proved = program.ranges, dict[str, Interval]()
    nodes: list[Node] = []
    for node in program.nodes:
        if not isinstance(node, ArgMax):
            nodes.append(node)
            continue
        reach = ranges[node.inputs[0]]
        furthest = reach.lo - reach.hi.max(-1, keepdims=True)
        proved[f"{node.name}.below"] = Interval(furthest, np.zeros_like(furthest))
        nodes += _Search(node, reach.shape).nodes(int(furthest.min()))
    return program.rewritten(nodes, proved)


class _Search:
    """The nodes of one `ArgMax`."""

    def __init__(self, node: ArgMax, shape: tuple[int, ...]) -> None:
        self.name, self.layer, (self.value,) = node.name, node.layer, node.inputs
        self.shape, self.count = shape, shape[-1]
        self.made: list[Node] = []

    def nodes(self, furthest: int) -> list[Node]:
        """In order; `furthest` is the lowest that a number can be below the maximum."""
        name, layer, count = self.name, self.layer, self.count
        best = self._tournament()
        at_maximum = (whole_numbers(layer, furthest, 0) == 0).astype(np.int64)
        # Equal numbers before it, for one that is equal; more than none for any other.
        before = np.triu(np.ones((count, count), np.int64), 1) - np.eye(count, dtype=np.int64)
        first = (np.arange(count + 1) == 0).astype(np.int64)
        return [
            *self.made,
            Broadcast(f"{name}.best", layer, (best,), self.shape),
            Sub(f"{name}.below", layer, (self.value, f"{name}.best")),
            Table(f"{name}.equal", layer, (f"{name}.below",), np.array(-furthest), at_maximum),
            Linear(f"{name}.before", layer, (f"{name}.equal",), before),
            AddConst(f"{name}.rank", layer, (f"{name}.before",), np.array(1)),
            Table(name, layer, (f"{name}.rank",), np.array(0), first),
        ]

    def _tournament(self) -> str:
        """The name of the maximum; a number left over by a round waits for the next one."""
        value, count, game = self.value, self.count, 0
        while count > 1:
            half = count // 2
            name = f"{self.name}.game{game}"
            left, right = (self._cut(value, f"{name}.{i}", i * half, half) for i in range(2))
            self.made.append(Max(name, self.layer, (left, right)))
            if count % 2:
                waits = self._cut(value, f"{name}.waits", count - 1, 1)
                joined = Concat(f"{name}.all", self.layer, (name, waits), len(self.shape) - 1)
                self.made.append(joined)
                name = joined.name
            value, count, game = name, half + count % 2, game + 1
        return value

    def _cut(self, value: str, name: str, start: int, size: int) -> str:
        rest = self.shape[:-1]
        starts, steps = (*(0,) * len(rest), start), (1,) * len(self.shape)
        self.made.append(Slice(name, self.layer, (value,), starts, (*rest, start + size), steps))
        return name
