"""Sums that wrap: which tables fold, and that what reads them is exact all the way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import Builder, random_inputs, same_outputs
from torusformer.fhe_compile import Circuit, compile_program, interpret, plan
from torusformer.fhe_compile.passes.packing import narrowest_packing
from torusformer.fhe_compile.prices.failure import FAST
from torusformer.fhe_compile.program.antiperiod import folded_tables, narrowest_fold
from torusformer.fhe_compile.program.nodes import (
    IntArray,
    Linear,
    MatMul,
    Port,
    Program,
    Round,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval
from torusformer.fhe_compile.tfhe.tensor_ops import Wrap


def span(lo: int, hi: int) -> Interval:
    return Interval(np.array([lo]), np.array([hi]))


def antiperiodic(first: IntArray, constant: int, length: int) -> IntArray:
    """first, then constant - first, and so again."""
    period = np.concatenate([first, constant - first])
    return np.resize(period, length)


def wave(v: IntArray, bits: int, levels: int = 1) -> IntArray:
    """What a code of 2 * levels + 1 levels, of steps of one unit, is of a sum modulo a ring."""
    half = 2**bits
    around = (v + half // 2) % (2 * half)
    return np.clip(half // 2 - np.abs(around - half), -levels, levels)


halves = st.integers(0, 3).flatmap(
    lambda bits: st.lists(st.integers(-4, 4), min_size=2**bits, max_size=2**bits)
)


@given(first=halves, constant=st.integers(-3, 3), extra=st.integers(1, 40))
def test_an_antiperiodic_table_is_read_by_no_more_than_its_period(first, constant, extra):
    size = len(first)
    values = antiperiodic(np.array(first), 2 * constant, 2 * size + extra)
    fold = narrowest_fold(values, span(0, len(values) - 1))
    bits = size.bit_length() - 1
    if bits == 0:  # no bootstrap reads less than one bit
        return
    assert fold is not None
    assert fold.bits <= bits
    tables, mapping = folded_tables(values, span(0, len(values) - 1), np.array([0]), fold)
    ring = np.concatenate([tables[0], -tables[0]]) + fold.half[0]
    assert np.array_equal(ring[np.arange(len(values)) % len(ring)], values)
    assert mapping.tolist() == [0]


@given(bits=st.integers(2, 4), place=st.integers(0, 63), seed=st.integers(0, 1000))
def test_one_entry_off_is_not_read_modulo(bits, place, seed):
    first = np.random.default_rng(seed).permutation(2**bits)  # no shorter period
    values = antiperiodic(first, 0, 4 * 2**bits)
    place %= len(values)
    values[place] += 2
    fold = narrowest_fold(values, span(0, len(values) - 1))
    assert fold is None or fold.bits > bits


def test_an_odd_constant_has_no_half():
    steps = (np.arange(16) // 4) % 2  # 0 0 0 0 1 1 1 1: f(v) + f(v + 4) = 1
    assert narrowest_fold(steps, span(0, 15)) is None
    assert narrowest_fold(2 * steps, span(0, 15)) is not None


def test_each_element_has_its_own_constant():
    values = np.concatenate([antiperiodic(np.arange(4), 0, 16), antiperiodic(np.arange(4), 6, 16)])
    both = Interval(np.array([0, 16]), np.array([15, 31]))
    fold = narrowest_fold(values, both)
    assert fold is not None
    assert fold.half.tolist() == [0, 3]


FACTORS = [(-1, 1), (-1, 0, 1), (0, 1), (0, 1, 2), (-2, -1, 0, 1), (3, 5)]


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize(("xs", "ys"), [*itertools.combinations_with_replacement(FACTORS, 2)])
def test_a_packing_means_the_products_and_is_antiperiodic(xs, ys, terms):
    packing = narrowest_packing(xs, ys, terms)
    if packing is None:
        return
    half = len(packing.ring) // 2
    assert half == 2**packing.bits
    assert len(set((packing.ring[:half] + packing.ring[half:]).tolist())) == 1
    for factors in itertools.product(itertools.product(xs, ys), repeat=terms):
        pairs = [packing.left * x + packing.right * y for x, y in factors]
        place = sum(p * pair for p, pair in zip(packing.places, pairs, strict=True))
        assert packing.ring[place % (2 * half)] == sum(x * y for x, y in factors)


def test_the_packings_that_attention_lives_on():
    assert narrowest_packing((-1, 1), (-1, 0, 1), 1).bits == 1
    assert narrowest_packing((0, 1), (0, 1), 2).bits == 3
    assert narrowest_packing((-1, 1), (-1, 1), 2).bits == 4
    assert narrowest_packing(tuple(range(8)), tuple(range(8)), 1) is None


def wrapping(seed: int, bits: int, outputs: int = 2, inputs: int = 12) -> Program:
    """Two layers of sums far beyond their ring; of the second, several tables read the same sum.

    A step, a code a channel, and where it is narrow enough one that is not antiperiodic at all.
    """
    rng = np.random.default_rng(seed)
    b = Builder(Port("x", (2, inputs), -1, 1))
    b.add(Linear("a", "first", ("x",), rng.integers(-2, 3, (inputs, 4))))
    lo, hi = int(b.ranges["a"].lo.min()), int(b.ranges["a"].hi.max())
    n = np.arange(lo, hi + 1)
    channels = [wave(n + int(rng.integers(9)), bits, 1 + c % 2) for c in range(4)]
    b.add(Table("code", "first", ("a",), np.arange(4) * len(n) - lo, np.concatenate(channels)))
    b.add(Linear("s", "second", ("code",), rng.integers(-2, 3, (4, 3))))
    b.table("sign", "second", "s", lambda v: np.where(v % 2 ** (bits + 1) < 2**bits, 1, -1))
    b.table("wave", "second", "s", lambda v: wave(v, bits) + 2)
    b.table("square", "second", "s", lambda v: v * v % 5)
    b.add(Transpose("turned", "attend", ("wave",), (1, 0)))
    b.add(MatMul("xy", "attend", ("sign", "turned")))
    b.add(Linear("y", "head", ("square",), np.ones((3, 1), np.int64)))
    return b.program(*["xy", "y"][:outputs])


def rings_of(program: Program) -> dict[str, int]:
    """Values that wrap, by the bits that read them."""
    operations = plan(program).encoding.operations
    return {op.tag: op.bits for op in operations if isinstance(op, Wrap)}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), bits=st.integers(1, 4))
def test_sums_that_wrap_are_seen_and_expanded_exactly(seed, bits):
    program = wrapping(seed, bits)
    assert rings_of(program)
    expanded, rng = plan(program).expanded, np.random.default_rng(seed)
    for extreme in ("", "", "lo", "hi"):
        inputs = random_inputs(program, rng, extreme)
        before, after = interpret(program, inputs), interpret(expanded, inputs)
        for port in program.outputs:
            assert np.array_equal(before[port.name], after[port.name])


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    made = compile_program(wrapping(3, 3))
    made.keygen()
    return made


@pytest.mark.parametrize("fhe", ["graph", "simulate", "execute"])
def test_every_residue_of_a_ring_is_read_exactly(circuit, fhe):
    program, rng = circuit.plan.program, np.random.default_rng(0)
    seen = set()
    for _ in range(3 if fhe == "execute" else 20):
        inputs = random_inputs(program, rng, "")
        expected = interpret(program, inputs)
        found = circuit.graph(inputs) if fhe == "graph" else circuit.run(inputs, fhe=fhe)
        seen |= {int(v) % 16 for v in expected["a"].ravel()}
        for port in program.outputs:
            assert np.array_equal(found[port.name], expected[port.name])
    if fhe != "execute":
        assert seen == set(range(16))


def test_an_output_never_wraps(circuit):
    encoding = circuit.plan.encoding
    for port in encoding.outputs:
        assert not isinstance(encoding.operations[port.operation], Wrap)
        span_of = circuit.plan.program.ranges[port.port.name]
        assert 2**port.bits > int((span_of.hi - span_of.lo).max())


def layers_of(program: Program) -> list[int]:
    """Bits that each table reads, in order."""
    return [row.bits for row in plan(program).rows]


def test_no_pass_takes_a_table_its_ring():
    """Signs that a sum reads stay -1 and 1; a table of an antiperiodic one is not joined to it."""
    b = Builder(Port("x", (1, 60), -1, 1))
    rng = np.random.default_rng(0)
    b.add(Linear("s", "first", ("x",), rng.integers(-1, 2, (60, 4))))
    b.table("sign", "first", "s", lambda v: np.where(v % 16 < 8, 1, -1))
    b.add(Linear("y", "head", ("sign",), rng.integers(-3, 4, (4, 2))))
    signs = b.program("y")
    assert layers_of(signs) == [3]
    b.table("code", "first", "s", lambda v: wave(v, 3))
    b.table("square", "second", "code", lambda v: v * v)
    both = b.program("y", "square")
    assert layers_of(both) == [3, 3, 1]
    for program in (signs, both):
        same_outputs(program, plan(program).expanded)


def rounded_in_a_ring(seed: int, lsbs: int = 2) -> Program:
    """A table of a rounded sum that is antiperiodic: neither needs what lies above its ring."""
    rng = np.random.default_rng(seed)
    b = Builder(Port("x", (1, 12), -3, 3))
    b.add(Linear("a", "first", ("x",), rng.integers(-2, 3, (12, 3))))
    b.add(Round("h", "first", ("a",), lsbs))
    lo, hi = int(b.ranges["h"].lo.min()), int(b.ranges["h"].hi.max())
    values = antiperiodic(rng.integers(-3, 4, 4), 0, hi - lo + 1)
    b.add(Table("code", "first", ("h",), np.array(-lo), values))
    b.add(Linear("y", "head", ("code",), np.ones((3, 1), np.int64)))
    return b.program("y")


def test_a_rounding_before_a_table_that_wraps_sees_its_ring_alone():
    program = rounded_in_a_ring(0)
    rounding, table = plan(program).rows
    assert (rounding.bits, rounding.lsbs, table.bits, table.wraps) == (4, 2, 2, True)
    assert program.ranges["a"].span_bits > 5
    circuit, rng = compile_program(program, p_error=FAST), np.random.default_rng(0)
    for i, extreme in enumerate(("", "lo", "hi", "", "", "", "")):
        inputs = random_inputs(program, rng, extreme)
        expected = interpret(program, inputs)["y"]
        assert np.array_equal(interpret(plan(program).expanded, inputs)["y"], expected)
        assert np.array_equal(circuit.run(inputs, fhe="simulate")["y"], expected)
        if i == 2:
            assert np.array_equal(circuit.run(inputs, fhe="execute")["y"], expected)
