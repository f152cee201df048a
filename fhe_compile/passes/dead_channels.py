"""Drop channels (the last axis) that nobody reads, or that are the same number for every input.

1. What a constant channel adds to a `Linear` is known: it becomes an `AddConst`, its weights zero.
2. A channel that every reader multiplies by zero is not computed: the `Linear` before it loses a
   column, element-wise nodes in between their entry for it, and the readers a row.

Sums that are held narrow leave most weights at zero, so that training does leave channels alone.

Worked example: y = table(x @ A) @ [[1], [0]] needs the first column of A only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.table_channels import columns_of
from torusformer.fhe_compile.program.nodes import (
    AddConst,
    Concat,
    Linear,
    Node,
    Program,
    Round,
    Scale,
    Table,
)

Mask = NDArray[np.bool_]
ELEMENTWISE = (AddConst, Scale, Round, Table)


def remove_dead_channels(program: Program, _: PassOptions | None = None) -> Program:
    """The same program with fewer channels inside; inputs and outputs stay whole."""
    program = _fold_constant_channels(program)
    keep = _Channels(program).keep
    if all(mask.all() for mask in keep.values()):
        return program
    shrunk = [name for name, mask in keep.items() if not mask.all()]
    return program.forgetting(shrunk).rewritten(_shrunk(node, keep) for node in program.nodes)


def _fold_constant_channels(program: Program) -> Program:
    ranges = program.ranges
    nodes: list[Node] = []
    for node in program.nodes:
        if not isinstance(node, Linear):
            nodes.append(node)
            continue
        x = ranges[node.inputs[0]]
        same = (x.lo == x.hi).reshape(-1, x.shape[-1]).all(0) & node.weight.any(1)
        if not same.any() or same.all():
            nodes.append(node)
            continue
        added = x.lo[..., same] @ node.weight[same]
        rest = replace(node, weight=np.where(same[:, None], 0, node.weight))
        if added.any():
            rest = replace(rest, name=f"{node.name}.varying")
            nodes += [rest, AddConst(node.name, node.layer, (rest.name,), added)]
        else:
            nodes.append(rest)
    return program.rewritten(nodes)


class _Channels:
    """Which channels of every value stay; all of them where one of its users cannot do with less.

    A value has the masks of what surrounds it, so these are narrowed down and then widened again
    until they agree.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sizes = {n: (r.shape or (1,))[-1] for n, r in program.ranges.items()}
        self.ranks = {n: len(r.shape) for n, r in program.ranges.items()}
        self.keep = self._live()
        while self._widen():
            pass

    def _live(self) -> dict[str, Mask]:
        live = {name: np.zeros(size, np.bool_) for name, size in self.sizes.items()}
        for port in (*self.program.inputs, *self.program.outputs):
            live[port.name][:] = True
        for node in reversed(self.program.nodes):
            out = live[node.name]
            if isinstance(node, Linear):
                live[node.inputs[0]] |= node.weight[:, out].any(1)
            elif isinstance(node, ELEMENTWISE):
                live[node.inputs[0]] |= out
            elif self._joins_channels(node):
                for name, part in zip(node.inputs, self._parts(node, out), strict=True):
                    live[name] |= part
            else:
                for name in node.inputs:
                    live[name][:] = True
        return {name: mask if mask.any() else ~mask for name, mask in live.items()}

    def _joins_channels(self, node: Node) -> bool:
        return isinstance(node, Concat) and node.axis == self.ranks[node.name] - 1

    def _parts(self, node: Node, mask: Mask) -> list[Mask]:
        ends = np.cumsum([self.sizes[name] for name in node.inputs])[:-1]
        return np.split(mask, ends)

    def _widen(self) -> bool:
        """One round; whether any mask grew."""
        before = sum(int(mask.sum()) for mask in self.keep.values())
        for node in self.program.nodes:
            out = self.keep[node.name]
            if isinstance(node, Linear):
                continue  # loses columns and rows as it likes
            if isinstance(node, ELEMENTWISE):
                both = out | self.keep[node.inputs[0]]
                self.keep[node.name] = self.keep[node.inputs[0]] = both
            elif self._joins_channels(node):
                joined = np.concatenate([self.keep[name] for name in node.inputs]) | out
                self.keep[node.name] = joined
                for name, part in zip(node.inputs, self._parts(node, joined), strict=True):
                    self.keep[name] = self.keep[name] | part
            else:
                for name in (node.name, *node.inputs):
                    self.keep[name] = np.ones(self.sizes[name], np.bool_)
        return sum(int(mask.sum()) for mask in self.keep.values()) > before


def _shrunk(node: Node, keep: dict[str, Mask]) -> Node:
    mask = keep[node.name]
    match node:
        case Linear():
            return replace(node, weight=node.weight[keep[node.inputs[0]]][:, mask])
        case AddConst():
            return replace(node, value=columns_of(node.value, mask, mask.size))
        case Scale():
            return replace(node, factor=columns_of(node.factor, mask, mask.size))
        case Table():
            return replace(node, offset=columns_of(node.offset, mask, mask.size))
    return node
