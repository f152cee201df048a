"""A sign times a table in, one table of what the table read out.

A table with f(v + 2^p) = -f(v) is multiplied by a sign by moving what it reads by half its ring:
f(v + 2^p b), b 0 for plus and 1 for minus. Any table of at most 2^p numbers becomes one such. So
the product costs one bootstrap of p bits, and where nothing else reads f(v), f itself is not looked
up at all.

Worked example: f(v) = -1, 0, 1, 0 for v = 0 .. 3 and so on has p = 1; -1 times f(0) is f(2) = 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from torusformer.fhe_compile.passes.multiply import Operand, Product
from torusformer.fhe_compile.program.antiperiod import narrowest_fold
from torusformer.fhe_compile.program.nodes import (
    Add,
    Broadcast,
    IntArray,
    Node,
    Reshape,
    Scale,
    Slice,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval

SIGN = (-1, 1)
_Move = Reshape | Transpose | Slice | Broadcast


@dataclass(frozen=True, eq=False)
class SignedTable:
    """One product: which operand is the sign, and the table behind the other, `bits` wide.

    `moves` stand between the table and the product.
    """

    product: Product
    sign: Operand
    table: Table
    moves: tuple[_Move, ...]
    bits: int
    index: Interval

    @property
    def lookups(self) -> int:
        """Of the table itself, which the product may save."""
        return math.prod(self.index.shape)

    def nodes(self) -> list[Node]:
        """In order; the last one is the product."""
        product, half = self.product, 2**self.bits
        name, layer = product.node.name, product.node.layer
        moved, offset = self._before_the_table()
        operand = moved[-1].name if moved else self.table.inputs[0]
        x_is_sign = self.sign is product.x
        ends = (self.sign.name, operand) if x_is_sign else (operand, self.sign.name)
        aligned, left, right = product.aligned(np.ones(1, np.int64), *ends)
        sign, value = (left, right) if x_is_sign else (right, left)
        values, starts = self._around_the_ring(offset)
        starts = _through(aligned, operand, starts, value)
        turn = Scale(f"{name}.half_ring", layer, (sign,), np.array(-half // 2))
        turned = Add(f"{name}.moved", layer, (value, turn.name))
        table = Table("", layer, (turned.name,), starts + half // 2, values)
        return [*moved, *aligned, turn, turned, *product.summed(table)]

    def _before_the_table(self) -> tuple[list[Node], IntArray]:
        """The same moves of what the table reads, and the table's index of a zero, moved."""
        name, source, nodes = self.product.node.name, self.table.inputs[0], list[Node]()
        for move in self.moves:
            made = replace(move, name=f"{name}.before.{move.name}", inputs=(source,))
            nodes.append(made)
            source = made.name
        return nodes, self.table.offset

    def _around_the_ring(self, offset: IntArray) -> tuple[IntArray, IntArray]:
        """Entries up to half a ring further, a copy for each span, and each element's start."""
        index, half = self.index, 2**self.bits
        ends = np.stack([index.lo.ravel(), index.hi.ravel()], axis=1)
        spans, which = np.unique(ends, axis=0, return_inverse=True)
        parts, starts, length = [], [], 0
        for lo, hi in spans:
            part = np.zeros(hi - lo + 1 + half, np.int64)
            part[: hi - lo + 1] = self.table.values[lo : hi + 1]
            for i in range(max(hi - lo + 1, half), len(part)):
                part[i] = -part[i - half]
            parts.append(part)
            starts.append(length - lo)
            length += len(part)
        shift = np.array(starts)[which.ravel()].reshape(index.shape)
        found = np.broadcast_to(offset, index.shape) + shift
        for move in self.moves:
            found = np.asarray(move.evaluate([found]))
        return np.concatenate(parts), found


def signed_table(
    product: Product, made: Mapping[str, Node], ranges: Mapping[str, Interval]
) -> SignedTable | None:
    """How a product is a sign times an antiperiodic table, if it is."""
    for sign, other in ((product.x, product.y), (product.y, product.x)):
        moves: list[_Move] = []
        node = made.get(other.name)
        while isinstance(node, _Move):
            moves.insert(0, node)
            node = made.get(node.inputs[0])
        if sign.values != SIGN or not isinstance(node, Table):
            continue
        x = ranges[node.inputs[0]]
        index = Interval(x.lo + node.offset, x.hi + node.offset)
        fold = narrowest_fold(node.values, index)
        folds = fold is not None and not fold.half.any()
        bits = fold.bits if fold is not None and folds else index.span_bits
        return SignedTable(product, sign, node, tuple(moves), bits, index)
    return None


def _through(nodes: list[Node], source: str, value: IntArray, target: str) -> IntArray:
    """What clear numbers in place of `source` are at `target`."""
    values = {source: value}
    for node in nodes:
        if node.inputs[0] in values:
            values[node.name] = np.asarray(node.evaluate([values[node.inputs[0]]]))
    return values[target]
