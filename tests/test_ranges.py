"""Proved ranges hold in exact integers: what int64 might not hold is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from tests.programs import Builder, random_inputs, random_program
from torusformer import BitWidthError
from torusformer.fhe_compile.frontend.symbols import compact
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    ArgMax,
    Broadcast,
    Concat,
    Constant,
    Linear,
    MatMul,
    Max,
    Mul,
    Node,
    Port,
    Program,
    Reshape,
    Round,
    Scale,
    Slice,
    Sub,
    Sum,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.onnx_io import from_onnx, to_onnx
from torusformer.fhe_compile.program.ranges import Interval

BIG = 2**61
# On x in [0, 4] and y in [0, 2^61], both (2, 2).
TOO_LARGE: list[Node] = [
    Linear("z", "fc", ("x",), np.full((2, 2), BIG)),
    Linear("z", "fc", ("x",), np.array([[BIG], [-BIG]])),  # the sum is small, its parts are not
    Add("z", "fc", ("y", "y")),
    AddConst("z", "fc", ("x",), np.array(2**62 - 4)),
    AddConst("z", "fc", ("x",), np.array(-(2**63))),
    Scale("z", "fc", ("x",), np.array([1, -BIG])),
    Sum("z", "fc", ("y",), (1,), False),
    MatMul("z", "fc", ("x", "y")),
    Mul("z", "fc", ("x", "y")),
    Mul("z", "fc", ("y", "y")),
    Table("z", "fc", ("x",), np.array(0), np.array([0, 1, 2, 3, -(2**62)])),
    Table("z", "fc", ("x",), np.array(2**62), np.arange(5)),
    Constant("z", "fc", (), np.array([-(2**63)])),
]


@pytest.mark.parametrize("node", TOO_LARGE, ids=lambda node: node.op)
def test_what_int64_may_not_hold_is_refused_by_name(node: Node) -> None:
    ports = Port("x", (2, 2), 0, 4), Port("y", (2, 2), 0, BIG)
    program = Program(ports, (), (node,))
    with pytest.raises(BitWidthError, match=rf"^fc: {node.op} 'z' reaches .*2\^62; lower"):
        _ = program.ranges


def test_a_difference_of_large_numbers_is_refused() -> None:
    ports = Port("x", (2,), -(2**61), 0), Port("y", (2,), 0, BIG)
    with pytest.raises(BitWidthError, match="fc: Sub 'z'"):
        _ = Program(ports, (), (Sub("z", "fc", ("x", "y")),)).ranges


def test_a_product_that_wraps_to_zero_is_not_zero() -> None:
    ports = Port("x", (1, 1), 0, 4), Port("y", (1, 1), 2**62 - 1, 2**62 - 1)
    with pytest.raises(BitWidthError, match="MatMul 'z'"):
        _ = Program(ports, (), (MatMul("z", "attn", ("x", "y")),)).ranges


@pytest.mark.parametrize("port", [Port("x", (1,), 0, 2**62), Port("x", (1,), -(10**30), 0)])
def test_an_input_without_bounds_in_int64_is_refused(port: Port) -> None:
    with pytest.raises(BitWidthError, match="input 'x' reaches"):
        _ = Program((port,), (), ()).ranges


def test_what_moves_large_numbers_keeps_them() -> None:
    b = Builder(Port("x", (2, 2), -BIG, BIG))
    b.add(Reshape("a", "l", ("x",), (4, 1)))
    b.add(Transpose("b", "l", ("a",), (1, 0)))
    b.add(Slice("c", "l", ("b",), (0, 0), (1, 4), (1, 2)))
    b.add(Concat("d", "l", ("c", "c"), 0))
    b.add(Broadcast("e", "l", ("d",), (3, 2, 2)))
    b.add(Max("f", "l", ("e", "e")))
    b.add(Round("g", "l", ("f",), 60))
    b.add(ArgMax("h", "l", ("f",)))
    assert (b.ranges["f"].lo.min(), b.ranges["f"].hi.max()) == (-BIG, BIG)
    assert (b.ranges["g"].lo.min(), b.ranges["g"].hi.max()) == (-2, 2)
    assert b.ranges["f"].span_bits == 63


def test_a_product_sums_over_one_length() -> None:
    ports = Port("x", (2, 1), 0, 4), Port("y", (3, 2), 0, 4)
    with pytest.raises(ValueError, match="sums over 1 and over 3"):
        _ = Program(ports, (), (MatMul("z", "fc", ("x", "y")),)).ranges


def test_ranges_are_exact_at_the_limit() -> None:
    """Of integers that a float64 does not hold."""
    b = Builder(Port("x", (1, 2), 0, 1))
    b.add(Linear("z", "fc", ("x",), np.array([[2**60 + 1], [2**60 + 1]])))
    assert b.ranges["z"].hi.item() == 2**61 + 2


@pytest.mark.parametrize("seed", range(50))
def test_peaks_are_not_below_what_is_met(seed: int) -> None:
    program = random_program(seed, nodes=8, bits=4)
    ranges = program.ranges
    for node in program.nodes:
        args = [ranges[name] for name in node.inputs]
        assert node.peak(args) >= node.bound(args).largest
    values = interpret(program, random_inputs(program, np.random.default_rng(seed)))
    for name, reach in ranges.items():
        assert (reach.lo <= values[name]).all() and (values[name] <= reach.hi).all()


def test_a_file_says_which_node() -> None:
    b = Builder(Port("x", (1, 2), 0, 3))
    b.add(Linear("y", "head", ("x",), np.array([[1], [2]])))
    model = to_onnx(b.program("y"))
    weight = np.array([[2**61], [2**61]], np.int64)
    model.graph.initializer[0].raw_data = weight.tobytes()
    with pytest.raises(BitWidthError, match="head: Linear 'y'"):
        from_onnx(model)


def test_close_integers_are_not_taken_for_equal() -> None:
    offsets = np.array([10**8, 10**8 + 4])
    assert compact(offsets).tolist() == offsets.tolist()
    assert compact(np.array([[2**53 + 1, 2**53 + 1]])).item() == 2**53 + 1


def test_the_largest_of_an_interval_knows_the_least_int64() -> None:
    least = np.array([-(2**63)])
    assert Interval(least, least).largest == 2.0**63
