"""Constants leave the encrypted part of a program."""

import numpy as np
import pytest

from tests.programs import Builder, Port, random_inputs
from torusformer.fhe_compile.passes.fold_constants import fold_constants
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Add, Constant, MatMul, Mul, Sub, Table

VECTOR = np.array([2, -1, 3])


def folded(kind, x_shape, value, constant_first):
    b = Builder(Port("x", x_shape, -2, 3))
    b.add(Constant("c", "layer", (), value))
    b.add(kind("out", "layer", ("c", "x") if constant_first else ("x", "c")))
    before = b.program("out")
    after = fold_constants(before)
    inputs = random_inputs(before, np.random.default_rng(0))
    assert np.array_equal(interpret(before, inputs)["out"], interpret(after, inputs)["out"])
    return [node.op for node in after.nodes if node.op != "Constant"]


@pytest.mark.parametrize(
    ("kind", "first", "ops"),
    [
        (Add, False, ["AddConst"]),
        (Add, True, ["AddConst"]),
        (Sub, False, ["AddConst"]),
        (Sub, True, ["Scale", "AddConst"]),
        (Mul, True, ["Scale"]),
    ],
)
def test_elementwise(kind, first, ops):
    assert folded(kind, (2, 3), VECTOR, first) == ops
    assert folded(kind, (2, 1), VECTOR, first) == ["Broadcast", *ops]


def test_matrix_products():
    weight = np.arange(12).reshape(3, 4) - 5
    assert folded(MatMul, (2, 3), weight, False) == ["Linear"]
    assert folded(MatMul, (5, 2, 3), weight, False) == ["Linear"]
    assert folded(MatMul, (4, 2), weight, True) == ["Transpose", "Linear", "Transpose"]
    assert folded(MatMul, (5, 4, 2), weight, True) == ["Transpose", "Linear", "Transpose"]
    batch = np.arange(24).reshape(2, 3, 4) - 11
    for x_shape in ((5, 3), (2, 5, 3), (1, 5, 3)):
        assert "Sum" in folded(MatMul, x_shape, batch, False)
    assert "Sum" in folded(MatMul, (4, 5), batch, True)


def test_a_value_that_cannot_vary_is_a_constant():
    b = Builder(Port("x", (2,), 0, 3))
    b.add(Table("one", "layer", ("x",), np.array(0), np.array([1, 1, 1, 1])))
    b.add(Add("out", "layer", ("x", "one")))
    assert [node.op for node in fold_constants(b.program("out")).nodes] == ["Constant", "AddConst"]
