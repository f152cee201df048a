"""Few tables that must be precise are read wider, so that many of their width stay cheap."""

import numpy as np

from tests.programs import Builder
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.fhe_compile.program.nodes import Linear, Port, Program
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.estimate import Estimate


def network(few: int, many: int) -> Program:
    """`few` tables of three bits write into a sum of ten bits, and `many` do not.

    Tables of four bits write there, too.
    """
    b = Builder(Port("x", (1, few), 0, 7), Port("z", (1, many), 0, 7), Port("w", (1, 40), 0, 15))
    b.table("precise", "few", "x", lambda n: n * n % 8)
    b.table("wide", "wide", "w", lambda n: n * n % 8)
    b.add(Linear("a", "head", ("precise",), np.full((few, 1), 60)))
    b.add(Linear("b", "head", ("wide",), 60 * np.eye(40, dtype=np.int64)))
    b.table("cheap", "many", "z", lambda n: n // 4)
    return b.program("a", "b", "cheap")


def bits_of(program: Program, layer: str) -> set[int]:
    return {row.bits for row in plan(program).rows if row.layer == layer}


def test_few_precise_tables_leave_many_cheap():
    program = network(2, 60)
    found = plan(program)
    as_it_is = Estimate(encode(program), load_prices())
    assert bits_of(program, "few") == {4}
    assert bits_of(program, "many") == {3}
    assert 3 not in {dear.bits for dear in found.dear}
    assert 1000 * found.predicted_seconds < 0.9 * as_it_is.total_ms()


def test_many_precise_tables_stay_as_they_are():
    assert bits_of(network(40, 4), "few") == {3}


def test_a_table_read_wider_says_the_same():
    program = network(2, 60)
    circuit = compile_program(program, simulate=True)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = {p.name: rng.integers(p.lo, p.hi + 1, p.shape) for p in program.inputs}
        expected = interpret(program, x)
        found = circuit.run(x, fhe="simulate")
        assert all(np.array_equal(found[name], expected[name]) for name in found)
