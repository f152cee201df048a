"""Products of two encrypted values in, tables and additions out.

TFHE multiplies by looking things up. Two ways, and the price list picks one for each product:

*pair sums*: with T(n) = n (n + e) / 2, e any odd number,
    x y = T(x + y) - T(x) - T(y),
so one table a product; T(x) and T(y) are looked up at their own, smaller, shapes, and all three
are summed over the contracted axis before they are subtracted. The e nearest to minus the sum of
the extremes of x + y centres the parabola, which keeps the sums narrow.

*pair sums, n a table*: of a matrix product, n neighbouring terms of narrow operands share a table
of the number whose digits are their pair sums; it gives the sum of their T.

*packed*: one table of the pair x' + m y', where x' and y' are x and y from zero and m the number
of values of x'. Wider by what x and y do not share, but it needs no T(x), T(y), and if only tables
read the product, they are looked up at once.

Worked example: x, y in [0, 3], e = -5: T = [0, -2, -3, -3, -2, 0, 3] and 2 * 3 = T(5) - T(2) - T(3)
= 0 + 3 + 3. With x, y in [-1, 1] two terms fit into 25 numbers, one table of five bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fhe_compile.bounds import Interval, analyze
from fhe_compile.cost import PriceList
from fhe_compile.program import (
    Add,
    IntArray,
    Linear,
    MatMul,
    Mul,
    Node,
    Program,
    Reshape,
    Scale,
    Sub,
    Sum,
    Table,
    Transpose,
)

PACKED_TABLE_BITS = 6  # wider packed tables cost more than any product seen


@dataclass(frozen=True)
class ProductChoice:
    """How one product is computed: milliseconds by strategy, and the cheapest of them.

    `terms` of a sum share a table.
    """

    node: str
    layer: str
    strategy: str
    price_ms: Mapping[str, float]
    terms: int = 1


@dataclass(frozen=True, eq=False)
class _Operand:
    """One side of a product: its own shape, and the shape in which it meets the other."""

    name: str
    shape: tuple[int, ...]
    lo: int
    hi: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        return max(1, (self.hi - self.lo).bit_length())


def expand_products(
    program: Program, prices: PriceList
) -> tuple[Program, dict[str, Interval], list[ProductChoice]]:
    """The program without `Mul` and `MatMul`, the ranges of the products, and what was chosen."""
    ranges, readers = analyze(program), program.consumers()
    outputs = {port.name for port in program.outputs}
    known: dict[str, Interval] = {}
    choices: list[ProductChoice] = []
    nodes: list[Node] = []
    done: set[str] = set()
    for node in program.nodes:
        if node.name in done:
            continue
        if not isinstance(node, Mul | MatMul):
            nodes.append(node)
            continue
        tables = [r for r in readers.get(node.name, []) if isinstance(r, Table)]
        fuse = tables and node.name not in outputs and len(tables) == len(readers[node.name])
        product = _Product(node, ranges)
        fused = tables if fuse and isinstance(node, Mul) else []
        choice = product.choose(prices, fused)
        choices.append(choice)
        if choice.strategy == "packed, reader fused":
            nodes.extend(product.packed_readers(fused))
            done.update(table.name for table in fused)
            known.update((table.name, ranges[table.name]) for table in fused)
            continue
        nodes.extend(product.square() if choice.strategy == "square" else product.expand(choice))
        known[node.name] = ranges[node.name]
    return program.replace(nodes=tuple(nodes)), known, choices


class _Product:
    def __init__(self, node: Mul | MatMul, ranges: Mapping[str, Interval]) -> None:
        self.node, self.ranges = node, ranges
        self.x, self.y = (self._operand(i) for i in node.inputs)
        self.shape = ranges[node.name].shape
        self.is_square = isinstance(node, Mul) and node.inputs[0] == node.inputs[1]
        self.depth = self.x.shape[-1] if isinstance(node, MatMul) else 1
        self.count = math.prod(self.shape) * self.depth  # single products

    def _operand(self, name: str) -> _Operand:
        x = self.ranges[name]
        return _Operand(name, x.shape, int(x.lo.min()), int(x.hi.max()))

    @property
    def _radix(self) -> int:
        return self.x.hi - self.x.lo + 1

    @property
    def _sums(self) -> int:
        """How many values x + y has."""
        return self.x.hi - self.x.lo + self.y.hi - self.y.lo + 1

    def _pair_bits(self, terms: int) -> int:
        return max(1, (self._sums**terms - 1).bit_length())

    @property
    def _packed_bits(self) -> int:
        return max(1, (self._radix * (self.y.hi - self.y.lo + 1) - 1).bit_length())

    def choose(self, prices: PriceList, fused: list[Table]) -> ProductChoice:
        """Price = sum of tables times milliseconds at their width, readers included."""
        x, y = self.x, self.y
        product = self.ranges[self.node.name]
        reader = len(fused) * math.prod(self.shape) * prices.table(product.span_bits)
        options: dict[str, float] = {}
        if self.is_square:
            options["square"] = self.count * prices.table(x.bits) + reader
        else:
            separate = x.size * prices.table(x.bits) + y.size * prices.table(y.bits)
            for name, terms in self._groups().items():
                pairs = self.count // terms * prices.table(self._pair_bits(terms))
                options[name] = pairs + separate + reader
            if self._packed_bits <= PACKED_TABLE_BITS:
                packed = self.count * prices.table(self._packed_bits)
                options["packed"] = packed + reader
                if fused:
                    options["packed, reader fused"] = packed * len(fused)
        best = min(options, key=lambda name: options[name])
        terms = self._groups().get(best, 1)
        return ProductChoice(self.node.name, self.node.layer, best, options, terms)

    def _groups(self) -> dict[str, int]:
        """Strategies of pair sums, and how many terms share a table in each."""
        groups = {"pair sums": 1}
        for terms in range(2, self.depth + 1):
            if self._pair_bits(terms) > PACKED_TABLE_BITS:
                break
            if self.depth % terms == 0:
                groups[f"pair sums, {terms} a table"] = terms
        return groups

    def square(self) -> list[Node]:
        """x² is a table of x."""
        values = np.arange(self.x.lo, self.x.hi + 1) ** 2
        return [self._table(self.node.name, self.x.name, self.x.lo, values)]

    def expand(self, choice: ProductChoice) -> list[Node]:
        """Nodes that end in the product under its own name."""
        return self._packed() if choice.strategy == "packed" else self._pair_sums(choice.terms)

    def _aligned(self, terms: int = 1) -> tuple[list[Node], str, str]:
        """The operands in shapes that broadcast to (..., M, N, K / terms) for a matrix product."""
        if isinstance(self.node, Mul):
            return [], self.x.name, self.y.name
        name, layer = self.node.name, self.node.layer
        *batch_x, rows, depth = self.x.shape
        *batch_y, _, columns = self.y.shape
        swap = (*range(len(batch_y)), len(batch_y) + 1, len(batch_y))
        turned = Transpose(f"{name}.turned", layer, (self.y.name,), swap)
        nodes: list[Node] = [turned]
        ends: list[str] = []
        shapes = (*batch_x, rows, 1, depth), (*batch_y, 1, columns, depth)
        for side, source, shape in zip("xy", (self.x.name, turned.name), shapes, strict=True):
            if terms > 1:  # neighbours along K as digits of one number
                grouped = (*shape[:-1], depth // terms, terms)
                nodes += [
                    Reshape(f"{name}.{side}_terms", layer, (source,), grouped),
                    Linear(f"{name}.{side}_digits", layer, (f"{name}.{side}_terms",),
                           self._place_values(terms)[:, None]),
                ]  # fmt: skip
                source, shape = nodes[-1].name, (*shape[:-1], depth // terms)
            nodes.append(Reshape(f"{name}.{side}", layer, (source,), shape))
            ends.append(nodes[-1].name)
        return nodes, ends[0], ends[1]

    def _place_values(self, terms: int) -> IntArray:
        return np.array([self._sums**i for i in range(terms)])

    def _pair_sums(self, terms: int) -> list[Node]:
        name, layer, x, y = self.node.name, self.node.layer, self.x, self.y
        e = -(x.lo + y.lo + x.hi + y.hi)
        e += e % 2 == 0  # odd, so that n (n + e) is even
        nodes, left, right = self._aligned(terms)
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

    def _packed(self) -> list[Node]:
        nodes, left, right = self._aligned()
        name = self.node.name
        packs = self._pack(left, right)
        contracted = isinstance(self.node, MatMul)
        table = self._table(
            f"{name}.products" if contracted else name,
            packs[-1].name,
            self.x.lo + self._radix * self.y.lo,
            self._every_pair(),
        )
        nodes += [*packs, table]
        if contracted:
            axis = max(len(self.x.shape), len(self.y.shape))
            nodes.append(Sum(name, self.node.layer, (table.name,), (axis,), False))
        return nodes

    def packed_readers(self, readers: list[Table]) -> list[Node]:
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
        xs = np.arange(self.x.lo, self.x.hi + 1)
        ys = np.arange(self.y.lo, self.y.hi + 1)
        return (ys[:, None] * xs).ravel()

    def _half_squares(self, e: int, terms: int) -> IntArray:
        """The sum of T over the digits of every number of `terms` pair sums."""
        n = np.arange(self._sums) + self.x.lo + self.y.lo
        total = np.zeros(1, np.int64)
        for _ in range(terms):
            total = (total[:, None] + n * (n + e) // 2).ravel()
        return total

    def _half_square(self, name: str, source: str, lo: int, hi: int, e: int) -> Table:
        n = np.arange(lo, hi + 1)
        return self._table(name, source, lo, n * (n + e) // 2)

    def _table(self, name: str, source: str, lo: int, values: IntArray) -> Table:
        return Table(name, self.node.layer, (source,), np.array(-lo), values)
