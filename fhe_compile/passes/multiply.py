"""Two encrypted operands in, the tables and sums that multiply them out.

The formulas are those of `products`, which chooses among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from torusformer.fhe_compile.passes.packing import Packing, narrowest_packing, values_of
from torusformer.fhe_compile.program.nodes import (
    Add,
    IntArray,
    Linear,
    MatMul,
    Mul,
    Node,
    Reshape,
    Scale,
    Sub,
    Sum,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval, whole_numbers


@dataclass(frozen=True, eq=False)
class Operand:
    """One side of a product: its own shape, and the shape in which it meets the other."""

    name: str
    shape: tuple[int, ...]
    lo: int
    hi: int
    values: tuple[int, ...] = ()  # that it can have, in order

    @property
    def size(self) -> int:
        """Ciphertexts."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """That a table of this side alone reads."""
        return max(1, (self.hi - self.lo).bit_length())


class Product:
    """One `Mul` or `MatMul` and the ways to compute it."""

    def __init__(
        self,
        node: Mul | MatMul,
        ranges: Mapping[str, Interval],
        made: Mapping[str, Node] | None = None,
    ) -> None:
        """`made` are the nodes of the program by name, to see what values there are."""
        self.node, self.ranges, self.made = node, ranges, made or {}
        self.x, self.y = (self._operand(i) for i in node.inputs)
        self.shape = ranges[node.name].shape
        self.is_square = isinstance(node, Mul) and node.inputs[0] == node.inputs[1]
        self.depth = self.x.shape[-1] if isinstance(node, MatMul) else 1
        self.count = math.prod(self.shape) * self.depth  # single products

    def _operand(self, name: str) -> Operand:
        x = self.ranges[name]
        values = values_of(name, self.made, self.ranges)
        return Operand(name, x.shape, int(x.lo.min()), int(x.hi.max()), values)

    @property
    def _radix(self) -> int:
        return self.x.hi - self.x.lo + 1

    @property
    def _sums(self) -> int:
        """How many values x + y has."""
        return self.x.hi - self.x.lo + self.y.hi - self.y.lo + 1

    def pair_bits(self, terms: int) -> int:
        """Of a table of `terms` pair sums."""
        return max(1, (self._sums**terms - 1).bit_length())

    @property
    def packed_bits(self) -> int:
        """Of a table of both operands."""
        return max(1, (self._radix * (self.y.hi - self.y.lo + 1) - 1).bit_length())

    def square(self) -> list[Node]:
        """x² is a table of x."""
        values = whole_numbers(self.node.layer, self.x.lo, self.x.hi) ** 2
        return [self._table(self.node.name, self.x.name, self.x.lo, values)]

    def packing(self, terms: int) -> Packing | None:
        """The narrowest table of `terms` products."""
        return narrowest_packing(self.x.values, self.y.values, terms)

    def aligned(self, places: IntArray, x: str, y: str) -> tuple[list[Node], str, str]:
        """Operands in shapes that broadcast to (..., M, N, K / terms) for a matrix product.

        Neighbours along K are digits of one number, worth their `places` (terms,). `x` and `y` are
        names of values of the operands' shapes.
        """
        if isinstance(self.node, Mul):
            return [], x, y
        name, layer, terms = self.node.name, self.node.layer, len(places)
        *batch_x, rows, depth = self.x.shape
        *batch_y, _, columns = self.y.shape
        swap = (*range(len(batch_y)), len(batch_y) + 1, len(batch_y))
        turned = Transpose(f"{name}.turned", layer, (y,), swap)
        nodes: list[Node] = [turned]
        ends: list[str] = []
        shapes = (*batch_x, rows, 1, depth), (*batch_y, 1, columns, depth)
        for side, source, shape in zip("xy", (x, turned.name), shapes, strict=True):
            if terms > 1:
                grouped = (*shape[:-1], depth // terms, terms)
                nodes += [
                    Reshape(f"{name}.{side}_terms", layer, (source,), grouped),
                    Linear(f"{name}.{side}_digits", layer, (f"{name}.{side}_terms",),
                           places[:, None]),
                ]  # fmt: skip
                source, shape = nodes[-1].name, (*shape[:-1], depth // terms)
            nodes.append(Reshape(f"{name}.{side}", layer, (source,), shape))
            ends.append(nodes[-1].name)
        return nodes, ends[0], ends[1]

    def _place_values(self, terms: int) -> IntArray:
        return np.array([self._sums**i for i in range(terms)])

    def pair_sums(self, terms: int) -> list[Node]:
        """T(x + y) - T(x) - T(y), `terms` of T(x + y) a table."""
        name, layer, x, y = self.node.name, self.node.layer, self.x, self.y
        e = -(x.lo + y.lo + x.hi + y.hi)
        e += e % 2 == 0  # odd, so that n (n + e) is even
        nodes, left, right = self.aligned(self._place_values(terms), x.name, y.name)
        pairs = Add(f"{name}.pair", layer, (left, right))
        lowest = (x.lo + y.lo) * int(self._place_values(terms).sum())
        nodes += [
            pairs,
            self._table(f"{name}.pair_table", pairs.name, lowest, self._half_squares(e, terms)),
            self._half_square(f"{name}.x_table", x.name, x.lo, x.hi, e),
            self._half_square(f"{name}.y_table", y.name, y.lo, y.hi, e),
        ]
        ends = [node.name for node in nodes[-3:]]
        if isinstance(self.node, MatMul):
            rank_x, rank_y = len(x.shape), len(y.shape)
            rank = max(rank_x, rank_y)
            nodes += [
                Sum(f"{name}.pair_sum", layer, (ends[0],), (rank,), False),
                Sum(f"{name}.x_sum", layer, (ends[1],), (rank_x - 1,), True),  # (..., M, 1)
                Sum(f"{name}.y_sum", layer, (ends[2],), (rank_y - 2,), True),  # (..., 1, N)
            ]
            ends = [node.name for node in nodes[-3:]]
        rest = Sub(f"{name}.without_x", layer, (ends[0], ends[1]))
        return [*nodes, rest, Sub(name, layer, (rest.name, ends[2]))]

    def difference_of_squares(self) -> list[Node]:
        """floor((x + y)² / 4) - floor((x - y)² / 4)."""
        name, layer, x, y = self.node.name, self.node.layer, self.x, self.y
        nodes, left, right = self.aligned(np.ones(1, np.int64), x.name, y.name)
        plus = Add(f"{name}.plus", layer, (left, right))
        minus = Sub(f"{name}.minus", layer, (left, right))
        ends = ((plus, x.lo + y.lo, x.hi + y.hi), (minus, x.lo - y.hi, x.hi - y.lo))
        squares = [
            self._table(f"{side.name}_table", side.name, lo, whole_numbers(layer, lo, hi) ** 2 // 4)
            for side, lo, hi in ends
        ]
        nodes += [plus, minus, *squares]
        sources = squares[0].name, squares[1].name
        if not isinstance(self.node, MatMul):
            return [*nodes, Sub(name, layer, sources)]
        terms = Sub(f"{name}.products", layer, sources)
        axis = max(len(x.shape), len(y.shape))
        return [*nodes, terms, Sum(name, layer, (terms.name,), (axis,), False)]

    def packed(self) -> list[Node]:
        """A table of the pair."""
        nodes, left, right = self.aligned(np.ones(1, np.int64), self.x.name, self.y.name)
        packs = self._pack(left, right)
        lowest = self.x.lo + self._radix * self.y.lo
        table = self._table("", packs[-1].name, lowest, self._every_pair())
        return [*nodes, *packs, *self.summed(table)]

    def in_a_ring(self, packing: Packing) -> list[Node]:
        """A table of some pairs, all in one number."""
        name, layer, x, y = self.node.name, self.node.layer, self.x, self.y
        nodes, *ends = self.aligned(np.array(packing.places), x.name, y.name)
        for i, (side, factor) in enumerate((("x", packing.left), ("y", packing.right))):
            if factor != 1:
                nodes.append(Scale(f"{name}.{side}_scaled", layer, (ends[i],), np.array(factor)))
                ends[i] = nodes[-1].name
        pairs = Add(f"{name}.pair", layer, tuple(ends))
        weights = np.outer(packing.places, (packing.left, packing.right))
        corners = np.sort(weights[..., None] * [(x.lo, x.hi), (y.lo, y.hi)], axis=-1)
        lo, hi = (int(corners[..., end].sum()) for end in (0, 1))
        table = self._table("", pairs.name, lo, packing.table(lo, hi))
        return [*nodes, pairs, *self.summed(table)]

    def summed(self, products: Table) -> list[Node]:
        """The product, from a table of its terms."""
        name = self.node.name
        if isinstance(self.node, Mul):
            return [replace(products, name=name)]
        terms = replace(products, name=f"{name}.products")
        axis = max(len(self.x.shape), len(self.y.shape))
        return [terms, Sum(name, self.node.layer, (terms.name,), (axis,), False)]

    def packed_readers(self, readers: Sequence[Table]) -> list[Node]:
        """The product and each table that reads it as one table of the pair."""
        packs = self._pack(self.x.name, self.y.name)
        nodes: list[Node] = list(packs)
        first = self.x.lo + self._radix * self.y.lo
        pairs = self._every_pair()
        for reader in readers:
            offsets, which = np.unique(reader.offset, return_inverse=True)
            # One table for each offset of the reader, laid end to end. A pair that cannot occur
            # for an element may leave the reader's table: any value will do there.
            index = np.clip(pairs + offsets[:, None], 0, len(reader.values) - 1)
            starts = which.reshape(reader.offset.shape) * len(pairs) - first
            values = reader.values[index].ravel()
            source = (packs[-1].name,)
            nodes.append(Table(reader.name, reader.layer, source, starts, values))
        return nodes

    def _pack(self, left: str, right: str) -> list[Node]:
        name, layer = self.node.name, self.node.layer
        scaled = Scale(f"{name}.scaled", layer, (right,), np.array(self._radix))
        return [scaled, Add(f"{name}.pair", layer, (left, scaled.name))]

    def _every_pair(self) -> IntArray:
        xs = whole_numbers(self.node.layer, self.x.lo, self.x.hi)
        ys = whole_numbers(self.node.layer, self.y.lo, self.y.hi)
        return (ys[:, None] * xs).ravel()

    def _half_squares(self, e: int, terms: int) -> IntArray:
        """The sum of T over the digits of every number of `terms` pair sums."""
        n = np.arange(self._sums) + self.x.lo + self.y.lo
        total = np.zeros(1, np.int64)
        for _ in range(terms):
            total = (total[:, None] + n * (n + e) // 2).ravel()
        return total

    def _half_square(self, name: str, source: str, lo: int, hi: int, e: int) -> Table:
        n = whole_numbers(self.node.layer, lo, hi)
        return self._table(name, source, lo, n * (n + e) // 2)

    def _table(self, name: str, source: str, lo: int, values: IntArray) -> Table:
        return Table(name, self.node.layer, (source,), np.array(-lo), values)
