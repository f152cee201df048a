"""Low bits cleared by two narrow tables a digit: equal integers, whatever is read afterwards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import Builder
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.fhe_compile.passes.digits import Digits, digits_of
from torusformer.fhe_compile.passes.narrow_clips import narrow_clips
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.fhe_compile.program.nodes import Linear, Port, Program, Table
from torusformer.fhe_compile.program.ranges import Interval


@given(st.integers(-300, 300), st.integers(0, 600), st.lists(st.integers(1, 4), max_size=3))
def test_digits_are_cleared_one_after_the_other(lo: int, span: int, sizes: list[int]):
    b = Builder(Port("x", (1, 64), lo, lo + span))
    digits = Digits("l", "x", b.ranges["x"])
    for size in sizes:
        digits.clear(f"from{digits.cleared + size}", size)
    name = digits.read("read")
    program = b.program("x").rewritten(digits.nodes, digits.proved)
    x = np.random.default_rng(0).integers(lo, lo + span + 1, (1, 64))
    x[0, :2] = lo, lo + span
    values = interpret(program, {"x": x})
    assert np.array_equal(values[name], x >> sum(sizes))
    for made, reach in program.ranges.items():
        assert (reach.lo <= values[made]).all() and (values[made] <= reach.hi).all(), made


def test_a_digit_is_read_in_a_ring_of_its_own():
    digits = Digits("l", "x", Interval(np.array([-500]), np.array([523])))
    digits.clear("y", 4)
    for table in (node for node in digits.nodes if isinstance(node, Table)):
        assert np.array_equal(table.values[16:], -table.values[:-16])


def test_digits_are_as_wide_as_is_cheap():
    assert digits_of(4, load_prices()) == (4,)
    assert digits_of(6, load_prices()) == (3, 3)
    assert digits_of(0, load_prices()) == ()


def wide_clip(hidden: int = 12, columns: int = 2) -> Program:
    """Sums of ten bits of narrow table results; eight levels of sixteen numbers each."""
    b = Builder(Port("x", (1, hidden), 0, 15))
    b.table("t", "mlp", "x", lambda n: n // 4 % 3 - 1)
    weight = np.random.default_rng(0).choice([-41, -40, -39, 39, 40, 41], (hidden, columns))
    b.add(Linear("sums", "head", ("t",), weight))
    b.table("y", "clip", "sums", lambda n: np.clip((n + 32) >> 4, 0, 7))
    return b.program("y")


def test_a_wide_clip_takes_no_rounding_and_six_narrow_tables():
    program = wide_clip()
    assert program.ranges["sums"].span_bits == 10
    rows = [row for row in plan(program).rows if row.layer == "clip"]
    assert [row.op for row in rows] == ["table"] * 6
    assert max(row.bits for row in rows) == 4
    split = narrow_clips(program, PassOptions())
    rng = np.random.default_rng(1)
    for _ in range(50):
        x = {"x": rng.integers(0, 16, (1, 12))}
        assert np.array_equal(interpret(split, x)["y"], interpret(program, x)["y"])


@pytest.mark.parametrize("mode", ["disable", "simulate"])
def test_the_circuit_of_a_wide_clip_is_exact(mode: str):
    program = wide_clip()
    circuit = compile_program(program, simulate=True)
    rng = np.random.default_rng(2)
    for _ in range(10):
        x = {"x": rng.integers(0, 16, (1, 12))}
        assert np.array_equal(circuit.run(x, fhe=mode)["y"], interpret(program, x)["y"])


@pytest.mark.slow
def test_a_wide_clip_decrypts_exactly():
    program = wide_clip()
    circuit = compile_program(program)
    circuit.keygen()
    rng = np.random.default_rng(3)
    for _ in range(3):
        x = {"x": rng.integers(0, 16, (1, 12))}
        assert np.array_equal(circuit.run(x, fhe="execute")["y"], interpret(program, x)["y"])
