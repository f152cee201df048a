"""Products of two encrypted values: every strategy gives the product, the price picks one."""

import numpy as np
import pytest

from tests.programs import Builder, Port, random_inputs
from torusformer.fhe_compile import compile_program
from torusformer.fhe_compile.passes.multiply import Product
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.products import choose, expand_products
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import MatMul, Mul, Table

FLAT = PriceList({}, table_ms={1: 1.0, 8: 1.0}, round_ms={1: 1.0})
STEEP = PriceList({}, table_ms={1: 1.0, 8: 4.0**7}, round_ms={1: 1.0})


def product(kind, x_range, y_range, x_shape=(2, 3), y_shape=(3, 2), reader=False):
    b = Builder(Port("x", x_shape, *x_range), Port("y", y_shape, *y_range))
    b.add(kind("xy", "layer", ("x", "y")))
    if reader:
        span = int(b.ranges["xy"].hi.max() - b.ranges["xy"].lo.min()) + 1
        lo = int(b.ranges["xy"].lo.min())
        values = np.random.default_rng(0).integers(-3, 4, 2 * span)
        b.add(Table("f", "layer", ("xy",), np.array([0, span]) - lo, values))
        return b.program("f")
    return b.program("xy")


def check(program, prices, strategy):
    expanded = expand_products(program, PassOptions(prices))
    assert list(expanded.strategies.values()) == [strategy]
    assert not any(isinstance(node, Mul | MatMul) for node in expanded.nodes)
    rng = np.random.default_rng(0)
    for extreme in ("lo", "hi", *[""] * 20):
        inputs = random_inputs(program, rng, extreme)
        before, after = interpret(program, inputs), interpret(expanded, inputs)
        for port in program.outputs:
            assert np.array_equal(before[port.name], after[port.name])
            assert (
                port.name not in expanded.proved
                or (expanded.proved[port.name].lo <= after[port.name]).all()
            )
    return expanded


# Tables of up to four bits are alike, wider ones out of the question.
NO_PACKING = PriceList({}, table_ms={1: 1.0, 4: 1.0, 5: 100.0}, round_ms={1: 1.0})

RANGES = [((-4, 3), (-4, 3)), ((0, 3), (-2, 1)), ((-1, 0), (0, 7)), ((5, 6), (-9, -7))]


@pytest.mark.parametrize(("x", "y"), RANGES[:2] + RANGES[3:])
def test_pair_sums_of_a_matrix_product(x, y):
    check(product(MatMul, x, y), STEEP, "pair sums")


@pytest.mark.parametrize(
    ("x", "y", "depth", "terms"),
    [
        ((-1, 1), (0, 2), 4, 2),
        ((0, 1), (0, 1), 6, 3),
        ((3, 5), (-1, 0), 6, 3),
        ((0, 2), (5, 7), 4, 2),
    ],
)
def test_narrow_terms_share_a_table(x, y, depth, terms):
    sums = x[1] - x[0] + y[1] - y[0] + 1
    cheap = {(sums**terms - 1).bit_length(), *((hi - lo).bit_length() for lo, hi in (x, y))}
    prices = PriceList({}, {b: 1.0 if b in cheap else 100.0 for b in range(1, 17)}, {1: 1.0})
    program = product(MatMul, x, y, (2, 2, depth), (depth, 3))
    expanded = check(program, prices, f"pair sums, {terms} a table")
    assert len(expanded.node("xy.pair_table").values) == sums**terms


@pytest.mark.parametrize(("x", "y"), RANGES)
def test_packed_matrix_product(x, y):
    check(product(MatMul, x, y), FLAT, "packed")


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((2, 2, 3), (2, 3, 4)), ((2, 3), (2, 3, 4)), ((2, 1, 2, 3), (1, 3, 3, 1))],
)
@pytest.mark.parametrize("prices", [STEEP, FLAT])
def test_batched_matrix_product(x_shape, y_shape, prices):
    strategy = "pair sums" if prices is STEEP else "packed"
    check(product(MatMul, (-2, 1), (0, 3), x_shape, y_shape), prices, strategy)


@pytest.mark.parametrize(("x", "y"), RANGES[:2] + RANGES[3:])
@pytest.mark.parametrize("y_shape", [(3,), (2, 1)])
def test_elementwise_product(x, y, y_shape):
    check(product(Mul, x, y, y_shape=y_shape), STEEP, "pair sums")


@pytest.mark.parametrize(("x", "y"), [((-4, 3), (-4, 3)), ((0, 5), (-8, -1))])
@pytest.mark.parametrize(
    ("kind", "x_shape", "y_shape"), [(Mul, (2, 3), (2, 3)), (MatMul, (2, 1, 3), (2, 3, 1))]
)
def test_where_nothing_repeats_two_squares_are_cheaper_than_three_tables(
    kind, x, y, x_shape, y_shape
):
    expanded = check(product(kind, x, y, x_shape, y_shape), NO_PACKING, "difference of squares")
    assert sum(isinstance(node, Table) for node in expanded.nodes) == 2


@pytest.mark.parametrize(("x", "y"), RANGES)
def test_a_table_of_a_product_is_one_packed_table(x, y):
    program = product(Mul, x, y, x_shape=(3, 2), y_shape=(3, 2), reader=True)
    expanded = check(program, FLAT, "packed, reader fused")
    assert sum(isinstance(node, Table) for node in expanded.nodes) == 1


def test_a_square_is_one_table_of_its_operand():
    b = Builder(Port("x", (2, 3), -3, 2))
    b.add(Mul("xy", "layer", ("x", "x")))
    expanded = check(b.program("xy"), STEEP, "square")
    assert [node.op for node in expanded.nodes] == ["Table"]


def test_the_price_picks_the_strategy_and_is_recorded():
    program = product(MatMul, (0, 1), (0, 1))
    choice = choose(Product(program.node("xy"), program.ranges), FLAT)
    assert choice.strategy == "packed"  # 12 lookups against 12 + 6 + 6
    assert choice.price_ms == {
        "pair sums": 24.0, "pair sums, 3 a table": 16.0, "difference of squares": 24.0,
        "packed in a ring": 12.0, "packed": 12.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "x_shape", "cheap", "strategy"),
    [
        (MatMul, (2, 4), (2, 5), "pair sums, 2 a table"),
        (Mul, (4, 2), (3,), "packed in a ring"),
    ],
)
def test_decrypted_products_are_exact(kind, x_shape, cheap, strategy):
    table_ms = {bits: 1.0 if bits in cheap else 100.0 for bits in range(1, 17)}
    prices = PriceList({}, table_ms=table_ms, round_ms={1: 1.0})
    program = product(kind, (-1, 1), (0, 2), x_shape, (4, 2))
    circuit = compile_program(program, prices=prices)
    assert circuit.plan.expanded.strategies == {"xy": strategy}
    circuit.keygen()
    inputs = random_inputs(program, np.random.default_rng(0), "")
    found = circuit.run(inputs, fhe="execute")["xy"]
    assert np.array_equal(found, interpret(program, inputs)["xy"])
