"""Two encrypted tensors without values in, the tables that multiply them out.

Which way is taken is what `fhe_compile.passes.products` chooses for such shapes and ranges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from torusformer.fhe_compile.passes.multiply import Product
from torusformer.fhe_compile.passes.options import MEMORY_LIMIT
from torusformer.fhe_compile.passes.products import choose
from torusformer.fhe_compile.passes.tile_products import CIPHERTEXT_BYTES
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.nodes import MatMul, Mul, Table
from torusformer.fhe_compile.program.ranges import Interval
from torusformer.pipelines.skeleton import Shape, Skeleton, Value

FOLDS = 3  # levels of a factor whose two signs are what lets a table of pairs wrap


@dataclass(frozen=True)
class Multiplier:
    """Adds products to a skeleton; `strategies` of them by layer."""

    skeleton: Skeleton
    prices: PriceList
    strategies: dict[str, str]
    known: dict[tuple[object, ...], tuple[Product, str]] = field(default_factory=dict)

    def _chosen(
        self, shape: Shape, x: Value, y: Value, kind: type[MatMul | Mul]
    ) -> tuple[Product, str]:
        """A product of x in this shape and y, and the way that is cheapest; each asked for once.

        A `Mul` is one that a table alone reads.
        """
        key = (kind, shape, x.lo, x.hi, y.shape, y.lo, y.hi)
        if key not in self.known:
            product = _product(shape, x, y, kind("product", "", ("x", "y")))
            reader = Table("reader", "", ("product",), np.array(0), np.zeros(1, np.int64))
            readers = [reader] if kind is Mul else []
            self.known[key] = product, choose(product, self.prices, readers).strategy
        return self.known[key]

    def matmul(self, layer: str, x: Value, y: Value) -> Value:
        """x (1, h, M, K) @ y (1, h, K, N), tiled as the compiler tiles it."""
        _, heads, rows, depth = x.shape
        columns = y.shape[-1]
        corners = [a * b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        lo, hi = depth * min(corners), depth * max(corners)
        block = max(1, MEMORY_LIMIT // (heads * columns * depth * CIPHERTEXT_BYTES))
        tiles = [(rows, 1)] if rows < 2 or block >= rows else [(block, rows // block)]
        if tiles[0][1] > 1 or tiles[0][0] < rows:
            tiles += [(rows % block, 1)] if rows % block else []
        tables: dict[str, Value] = {}
        made = [self._tile(layer, x, y, count, times, tables, lo, hi) for count, times in tiles]
        if len(made) == 1 and tiles[0][1] == 1:
            return made[0]
        shape = (1, heads, rows, columns)
        return self.skeleton.sums(layer, shape, [(v, 1) for v in made], lo, hi, joined=True)

    def _tile(
        self,
        layer: str,
        x: Value,
        y: Value,
        rows: int,
        times: int,
        tables: dict[str, Value],
        lo: int,
        hi: int,
    ) -> Value:
        """`rows` rows of the product, `times` over; the result has the rows of all of them."""
        s = self.skeleton
        _, heads, _, depth = x.shape
        columns = y.shape[-1]
        shape = (1, heads, rows * times, columns)
        product, strategy = self._chosen((1, heads, rows, depth), x, y, MatMul)
        name, _, of = strategy.partition(", ")
        terms = int(of.split()[0]) if of else 1
        self.strategies[layer] = strategy
        pair_shape = (1, heads, rows, columns, depth // terms)

        def pairs(left: float, right: float, low: int, high: int) -> Value:
            return s.sums(layer, pair_shape, [(x, left), (y, right)], low, high, times=times)

        def looked_up(pair: Value, bits: int, ring: bool) -> Value:
            if ring:
                return s.table(layer, pair, 0, 2, ring=bits, times=times)
            return s.table(layer, Value(pair.operation, pair.shape, 0, 2**bits - 1), 0, 2**bits - 1,
                           times=times)  # fmt: skip

        depth_of = float(depth // terms)
        if name in ("packed in a ring", "packed"):
            packing = product.packing(terms) if name != "packed" else None
            bits = packing.bits if packing else product.packed_bits
            left, right = (packing.left, packing.right) if packing else (1, x.span + 1)
            places = sum(p * p for p in packing.places) if packing else 1
            pair = pairs(left**2 * places, right**2 * places, 0, 1)
            found = looked_up(pair, bits, packing is not None)
            return s.sums(layer, shape, [(found, depth_of)], lo, hi)
        if name == "pair sums":
            sums = x.span + y.span + 1
            places = sum(sums ** (2 * i) for i in range(terms))
            found = looked_up(pairs(places, places, 0, 1), product.pair_bits(terms), False)
            ends = [(found, depth_of)]
            for side, operand in (("x", x), ("y", y)):
                if side == "x" or side not in tables:  # what is looked up of y serves all tiles
                    part = operand if side == "y" else self._rows(layer, x, rows)
                    tables[side] = s.table(
                        layer, part, 0, 2 ** product.pair_bits(1) - 1,
                        times=times if side == "x" else 1,
                    )  # fmt: skip
                ends.append((tables[side], float(depth)))
            return s.sums(layer, shape, ends, lo, hi)
        if name != "difference of squares":
            raise TypeError(f"{layer}: {strategy} is not counted here")
        bits = product.pair_bits(1)
        both = [looked_up(pairs(1, 1, 0, 1), bits, False) for _ in range(2)]
        terms_of = s.sums(layer, pair_shape, [(v, 1) for v in both], lo, hi, times=times)
        return s.sums(layer, shape, [(terms_of, float(depth))], lo, hi)

    def _rows(self, layer: str, x: Value, rows: int) -> Value:
        """A block of them."""
        if rows == x.shape[2]:
            return x
        shape = (*x.shape[:2], rows, x.shape[3])
        return self.skeleton.sums(layer, shape, [(x, 1)], x.lo, x.hi)

    def fused(self, layer: str, x: Value, y: Value, lo: int, hi: int, product_layer: str) -> Value:
        """A table of x y, of equal shapes but for what y repeats; of pairs if that is cheaper."""
        product, strategy = self._chosen(x.shape, x, y, Mul)
        self.strategies[product_layer] = strategy
        if strategy == "packed, reader fused":
            return self.pair_table(layer, x, y, lo, hi)
        corners = [a * b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        found = self._mul(strategy, product_layer, product, x, y, (min(corners), max(corners)))
        return self.skeleton.table(layer, found, lo, hi)

    def pair_table(self, layer: str, x: Value, y: Value, lo: int, hi: int) -> Value:
        """A table of two codes in one number; odd in one of three levels, it wraps."""
        radix = x.span + 1
        folds = y.span + 1 == FOLDS and y.lo == -y.hi and radix & (radix - 1) == 0
        highest = radix * (y.span + 1) - 1
        pair = self.skeleton.sums(layer, x.shape, [(x, 1), (y, radix**2)], 0, highest)
        return self.skeleton.table(layer, pair, lo, hi, ring=radix.bit_length() if folds else None)

    def _mul(
        self, strategy: str, layer: str, product: Product, x: Value, y: Value, ends: tuple[int, int]
    ) -> Value:
        s = self.skeleton
        if strategy in ("packed in a ring", "packed"):
            packing = product.packing(1) if strategy != "packed" else None
            left, right = (packing.left, packing.right) if packing else (1, x.span + 1)
            bits = packing.bits if packing else product.packed_bits
            weighed = [(x, float(left**2)), (y, float(right**2))]
            pair = s.sums(layer, x.shape, weighed, 0, 2**bits - 1)
            return s.table(layer, pair, *ends, ring=bits if packing else None)
        bits = product.pair_bits(1)
        pair = s.sums(layer, x.shape, [(x, 1), (y, 1)], 0, 2**bits - 1)
        if strategy == "difference of squares":
            parts = [s.table(layer, pair, 0, 2**bits - 1) for _ in range(2)]
        elif strategy == "pair sums":
            parts = [s.table(layer, v, 0, 2**bits - 1) for v in (pair, x, y)]
        else:
            raise TypeError(f"{layer}: {strategy} is not counted here")
        return s.sums(layer, x.shape, [(part, 1) for part in parts], *ends)


@dataclass(frozen=True, eq=False)
class _Everywhere(Interval):
    """The same bounds for all elements of a shape."""

    of_shape: Shape = ()

    @property
    def shape(self) -> Shape:
        """Not that of the bounds."""
        return self.of_shape


def _product(shape: Shape, x: Value, y: Value, node: Mul | MatMul) -> Product:
    """As a pass would see it: ranges of the same numbers everywhere, which take no memory."""

    def everywhere(shape: Shape, lo: int, hi: int) -> Interval:
        return _Everywhere(np.array([lo]), np.array([hi]), of_shape=shape)

    corners = [a * b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
    depth = shape[-1] if isinstance(node, MatMul) else 1
    out = (*shape[:-1], y.shape[-1]) if isinstance(node, MatMul) else shape
    ranges = {
        "x": everywhere(shape, x.lo, x.hi),
        "y": everywhere(y.shape, y.lo, y.hi),
        node.name: everywhere(out, depth * min(corners), depth * max(corners)),
    }
    return Product(node, ranges)
