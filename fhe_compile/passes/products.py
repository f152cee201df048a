"""Products of two encrypted values in, tables and additions out.

TFHE multiplies by looking things up. The price list picks one of these ways for each product:

*pair sums*: with T(n) = n (n + e) / 2, e any odd number,
    x y = T(x + y) - T(x) - T(y),
so one table a product; T(x) and T(y) are looked up at their own, smaller, shapes, and all three
are summed over the contracted axis before they are subtracted. The e nearest to minus the sum of
the extremes of x + y centres the parabola, which keeps the sums narrow.

*pair sums, n a table*: of a matrix product, n neighbouring terms of narrow operands share a table
of the number whose digits are their pair sums; it gives the sum of their T.

*difference of squares*: two tables a product, as Concrete's own operator does it,
    x y = floor((x + y)² / 4) - floor((x - y)² / 4),
which is cheaper where neither operand repeats, as in a gate: T(x) and T(y) are as many then.

*packed*: one table of the pair x' + m y', where x' and y' are x and y from zero and m the number
of values of x'. Wider by what x and y do not share, but it needs no T(x), T(y), and if only tables
read the product, they are looked up at once.

*packed in a ring*, one or two products a table: a x + b y of fewer bits, where sums that wrap mean
the same, see `packing`: a sign times one of three levels takes a single bit.

*sign in the table*: a sign times a table is the table at another place, see `signs`.

Worked example: x, y in [0, 3], e = -5: T = [0, -2, -3, -3, -2, 0, 3] and 2 * 3 = T(5) - T(2) - T(3)
= 0 + 3 + 3. With x, y in [-1, 1] two terms fit into 25 numbers, one table of five bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torusformer.fhe_compile.passes.multiply import Product
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.signs import SignedTable, signed_table
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.nodes import MatMul, Mul, Node, Program, Table
from torusformer.fhe_compile.program.ranges import Interval

PACKED_TABLE_BITS = 6  # wider packed tables cost more than any product seen


Build = Callable[[], list[Node]]


@dataclass(frozen=True)
class ProductChoice:
    """How one product is computed: milliseconds by strategy, the cheapest, and what it takes."""

    strategy: str
    price_ms: Mapping[str, float]
    build: Build


def expand_products(program: Program, options: PassOptions) -> Program:
    """The program without `Mul` and `MatMul`; what were products keep their ranges.

    What was chosen for each is among the program's `strategies`.
    """
    ranges, readers = program.ranges, program.consumers()
    made = {node.name: node for node in program.nodes}
    outputs = {port.name for port in program.outputs}
    proved: dict[str, Interval] = {}
    strategies = dict(program.strategies)
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
        product = Product(node, ranges, made)
        fused = tables if fuse and isinstance(node, Mul) else []
        signed = signed_table(product, made, ranges)
        saves = signed is not None and _is_read_once(signed, readers, outputs)
        choice = choose(product, options.prices, fused, signed, saves=saves)
        strategies[node.name] = choice.strategy
        if choice.strategy == "packed, reader fused":
            nodes.extend(choice.build())
            done.update(table.name for table in fused)
            proved.update((table.name, ranges[table.name]) for table in fused)
            continue
        nodes.extend(choice.build())
        proved[node.name] = ranges[node.name]
    return program.rewritten(nodes, proved).replace(strategies=strategies)


def _is_read_once(
    signed: SignedTable, readers: Mapping[str, Sequence[Node]], outputs: set[str]
) -> bool:
    """Whether nothing but the product reads the table."""
    names = [signed.table.name, *(move.name for move in signed.moves)]
    return all(len(readers[name]) == 1 and name not in outputs for name in names)


def choose(
    product: Product,
    prices: PriceList,
    fused: Sequence[Table] = (),
    signed: SignedTable | None = None,
    *,
    saves: bool = False,
) -> ProductChoice:
    """Price = sum of tables times milliseconds at their width, readers included.

    `fused` are the tables that alone read the product, `signed` what it is if one operand is a
    sign; that `saves` the lookups of the other one where nothing else reads them.
    """
    x, y = product.x, product.y
    span_bits = product.ranges[product.node.name].span_bits
    reader = len(fused) * math.prod(product.shape) * prices.table(span_bits)
    ways: dict[str, tuple[float, Build]] = {}
    if product.is_square:
        ways["square"] = product.count * prices.table(x.bits), product.square
        return _cheapest(ways, reader)
    separate = x.size * prices.table(x.bits) + y.size * prices.table(y.bits)
    for name, terms in _groups(product).items():
        pairs = product.count // terms * prices.table(product.pair_bits(terms))
        ways[name] = pairs + separate, partial(product.pair_sums, terms)
    squares = 2 * product.count * prices.table(product.pair_bits(1))
    ways["difference of squares"] = squares, product.difference_of_squares
    if product.packed_bits <= PACKED_TABLE_BITS:
        packed = product.count * prices.table(product.packed_bits)
        ways["packed"] = packed, product.packed
        if fused:
            read = packed * len(fused) - reader
            ways["packed, reader fused"] = read, partial(product.packed_readers, fused)
    for terms in (1, 2):
        packing = product.packing(terms) if product.depth % terms == 0 else None
        if packing is not None:
            name = "packed in a ring" if terms == 1 else f"packed in a ring, {terms} a table"
            tables = product.count // terms * prices.table(packing.bits)
            ways[name] = tables, partial(product.in_a_ring, packing)
    if signed is not None:
        saved = signed.lookups if saves else 0
        moved = (product.count - saved) * prices.table(signed.bits)
        ways["sign in the table"] = moved, signed.nodes
    return _cheapest(ways, reader)


def _cheapest(ways: Mapping[str, tuple[float, Build]], reader: float) -> ProductChoice:
    price_ms = {name: ms + reader for name, (ms, _) in ways.items()}
    best = min(price_ms, key=lambda name: price_ms[name])
    return ProductChoice(best, price_ms, ways[best][1])


def _groups(product: Product) -> dict[str, int]:
    """Strategies of pair sums, and how many terms share a table in each."""
    groups = {"pair sums": 1}
    for terms in range(2, product.depth + 1):
        if product.pair_bits(terms) > PACKED_TABLE_BITS:
            break
        if product.depth % terms == 0:
            groups[f"pair sums, {terms} a table"] = terms
    return groups
