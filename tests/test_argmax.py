"""Maximum, argmax and one-hot inputs: in the clear, as planned, and decrypted."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import Builder, same_outputs
from torusformer import InputError
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.fhe_compile.passes.centre_rows import centre_rows
from torusformer.fhe_compile.passes.expand_argmax import expand_argmax
from torusformer.fhe_compile.passes.expand_max import expand_max
from torusformer.fhe_compile.program.nodes import (
    ArgMax,
    Linear,
    Max,
    Port,
    Program,
    Reshape,
    Slice,
)
from torusformer.fhe_compile.program.onnx_io import from_onnx, to_onnx


def largest(count: int, bits: int) -> Program:
    b = Builder(Port("x", (1, count), 0, 2**bits - 1))
    b.table("scores", "head", "x", lambda n: n)
    b.add(ArgMax("next", "argmax", ("scores",)))
    return b.program("next")


def one_hot(index: int, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.int64)[[index]]


@given(st.integers(1, 12), st.data())
def test_the_first_of_the_largest_wins(count: int, data: st.DataObject):
    program = largest(count, 2)
    numbers = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    x, expected = {"x": np.array([numbers])}, one_hot(int(np.argmax(numbers)), count)
    assert np.array_equal(interpret(program, x)["next"], expected)
    expanded = expand_max(expand_argmax(program))
    assert np.array_equal(interpret(expanded, x)["next"], expected)
    assert expanded.ranges["next.below"].hi.max() == 0


def test_it_takes_three_bootstraps_a_number_less_one():
    assert plan(largest(27, 4)).pbs_by_layer["argmax"] == 26 + 27 + 27
    assert plan(largest(27, 4)).max_bit_width == 5


def test_maxima_expand_to_equal_integers():
    b = Builder(Port("x", (2, 3), -4, 2), Port("y", (3,), 0, 3))
    b.add(Max("m", "layer", ("x", "y")))
    program = b.program("m")
    expanded = expand_max(program)
    assert not any(isinstance(node, Max) for node in expanded.nodes)
    same_outputs(program, expanded)
    assert (expanded.proved["m"].lo.min(), expanded.proved["m"].hi.max()) == (0, 3)


def test_onnx_keeps_maxima_and_one_hot_ports():
    b = Builder(Port("token", (1, 4), 0, 1, one_hot=True))
    b.add(Linear("row", "embed", ("token",), np.array([[3], [-1], [4], [1]])))
    b.add(Max("best", "layer", ("row", "row")))
    b.add(ArgMax("next", "layer", ("best",)))
    model = to_onnx(b.program("best", "next"))
    program = from_onnx(model)
    assert program.inputs[0].one_hot
    assert [node.op for node in program.nodes] == ["Linear", "Max", "ArgMax"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = {"token": one_hot(2, 4)}
    expected = interpret(program, x)
    for name, found in zip(("best", "next"), session.run(None, x), strict=True):
        assert np.array_equal(found, expected[name])


def test_a_row_of_a_table_is_bounded_by_its_rows():
    b = Builder(Port("token", (1, 4), 0, 1, one_hot=True))
    b.add(Linear("row", "embed", ("token",), np.array([[3, 0], [-1, 0], [4, 1], [1, 1]])))
    found = b.program("row").ranges["row"]
    assert found.lo.tolist() == [[-1, 0]]
    assert found.hi.tolist() == [[4, 1]]


def test_columns_that_a_token_selects_from_lie_around_zero():
    b = Builder(Port("token", (1, 3), 0, 1, one_hot=True))
    b.add(Linear("row", "embed", ("token",), np.array([[9, 0], [7, 0], [8, 1]])))
    program = b.program("row")
    centred = centre_rows(program)
    assert abs(centred.node("row.centred").weight).max() == 1
    for index in range(3):
        x = {"token": one_hot(index, 3)}
        assert np.array_equal(interpret(centred, x)["row"], interpret(program, x)["row"])


def test_one_row_of_several_is_one_hot_too():
    b = Builder(Port("tokens", (1, 2, 3), 0, 1, one_hot=True))
    b.add(Slice("second", "embed", ("tokens",), (0, 1, 0), (1, 2, 3), (1, 1, 1)))
    b.add(Reshape("bits", "embed", ("second",), (1, 3)))
    b.add(Linear("row", "embed", ("bits",), np.array([[9, 0], [7, 0], [8, 1]])))
    program = b.program("row")
    assert program.ranges["row"].hi.tolist() == [[9, 1]]
    centred = centre_rows(program)
    assert abs(centred.node("row.centred").weight).max() == 1
    assert centred.ranges["row"].hi.tolist() == [[9, 1]]


@pytest.mark.parametrize("bits", [[[1, 1, 0]], [[0, 0, 0]]])
def test_an_index_has_one_bit_set(bits: list[list[int]]):
    b = Builder(Port("token", (1, 3), 0, 1, one_hot=True))
    b.add(Linear("row", "embed", ("token",), np.arange(3)[:, None]))
    circuit = compile_program(b.program("row"))
    with pytest.raises(InputError, match="exactly one is set"):
        circuit.run({"token": np.array(bits)}, fhe="disable")


def test_a_decrypted_argmax_of_what_a_token_selects_is_exact():
    b = Builder(Port("token", (1, 3), 0, 1, one_hot=True))
    b.add(Linear("scores", "head", ("token",), np.array([[3, 1, 3], [0, 2, 1], [1, 1, 1]])))
    b.add(ArgMax("next", "argmax", ("scores",)))
    program = b.program("next")
    circuit = compile_program(program)
    circuit.keygen()
    for index, expected in enumerate((0, 1, 0)):
        x = {"token": one_hot(index, 3)}
        for mode in ("disable", "simulate", "execute"):
            assert np.array_equal(circuit.run(x, fhe=mode)["next"], one_hot(expected, 3)), mode
