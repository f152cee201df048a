"""Every registered operator: ONNX Runtime = interpreter = graph = simulation = decryption."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.programs import DRAWN, Builder, Port, random_inputs
from torusformer.fhe_compile import Program, compile_program, interpret
from torusformer.fhe_compile.circuit.circuit import Circuit
from torusformer.fhe_compile.program.nodes import OPERATORS, Max, Mul, Node, Table
from torusformer.fhe_compile.program.onnx_io import from_onnx, to_onnx
from torusformer.fhe_compile.program.operators import linear
from torusformer.fhe_compile.tfhe.encode import encode
from torusformer.fhe_compile.tfhe.tensor_ops import TensorOp


def one_of_each() -> Program:
    """Every operator once on the inputs, and a table that reads each: all of them outputs."""
    rng = np.random.default_rng(3)
    b = Builder(Port("x", (2, 2), -2, 1), Port("token", (2, 2), 0, 1, one_hot=True))
    for op in OPERATORS:
        assert DRAWN[op](rng, b, op, "x", "token") == op
        b.table(f"{op}.read", op, op, lambda n: n % 3)
    return b.program(*OPERATORS, *(f"{op}.read" for op in OPERATORS))


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return compile_program(one_of_each())


@pytest.fixture(scope="module")
def inputs(circuit: Circuit):
    return random_inputs(circuit.program, np.random.default_rng(0))


@pytest.fixture(scope="module")
def found(circuit: Circuit, inputs):
    """By oracle, all outputs by name."""
    names = [port.name for port in circuit.program.outputs]
    session = onnxruntime.InferenceSession(to_onnx(circuit.program).SerializeToString())
    circuit.keygen()
    return {
        "onnxruntime": dict(zip(names, session.run(names, inputs), strict=True)),
        "graph": circuit.graph(inputs),
        "simulate": circuit.run(inputs, fhe="simulate"),
        "execute": circuit.run(inputs, fhe="execute"),
    }


@pytest.mark.parametrize("op", OPERATORS)
def test_every_oracle_agrees(op: str, circuit: Circuit, inputs, found) -> None:
    expected = interpret(circuit.program, inputs)
    for oracle, values in found.items():
        for name in (op, f"{op}.read"):
            assert np.array_equal(values[name], expected[name]), (oracle, name)


@pytest.mark.parametrize("op", OPERATORS)
def test_onnx_gives_back_every_operator(op: str) -> None:
    program = one_of_each()
    node, read = program.node(op), from_onnx(to_onnx(program)).node(op)
    assert (type(read), read.inputs, read.layer) == (type(node), node.inputs, node.layer)
    assert read.content == node.content


def test_planned_bootstraps_are_those_that_concrete_counts(circuit: Circuit) -> None:
    planned = {tag: n for tag, n in circuit.plan.pbs_by_tag.items() if n}
    counted = circuit.statistics["programmable_bootstrap_count_per_tag"]
    assert planned == {tag: n for tag, n in counted.items() if n}


def test_an_operator_without_a_rule_is_refused_where_it_is_defined() -> None:
    with pytest.raises(TypeError, match="Cube lacks bound, encode, read_onnx, squared_weights"):

        @dataclass(frozen=True, eq=False)
        class Cube(Node):
            onnx_op = "Pow"

            def evaluate(self, args):
                return args[0] ** 3

    assert "Cube" not in OPERATORS


def test_a_tensor_operation_without_a_rule_is_refused_where_it_is_defined() -> None:
    with pytest.raises(TypeError, match="Negate lacks content, squared_weights"):

        @dataclass(frozen=True, eq=False)
        class Negate(TensorOp):
            def trace(self, args, bits, backend):
                return -args[0]


@pytest.mark.parametrize(("kind", "cure"), [(Mul, "expand_products"), (Max, "expand_max")])
def test_what_tfhe_has_not_is_not_encoded(kind: type[Node], cure: str) -> None:
    b = Builder(Port("x", (2,), 0, 3))
    b.add(kind("y", "layer", ("x", "x")))
    with pytest.raises(TypeError, match=f"layer: {kind.op} is not encoded; run {cure} before"):
        encode(b.program("y"))


def test_a_table_by_itself_needs_no_pass() -> None:
    b = Builder(Port("x", (2,), 0, 3))
    b.add(Table("y", "layer", ("x",), np.array(0), np.arange(4)[::-1].copy()))
    assert [type(op).__name__ for op in encode(b.program("y")).operations] == ["Input", "Lookup"]


def test_the_operator_that_contributing_adds_has_all_rules() -> None:
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    (diff,) = re.findall(r"```diff\n(\+@dataclass.*?)```", text, re.DOTALL)
    names = dict(vars(linear))
    try:
        exec("\n".join(line[1:] for line in diff.splitlines()), names)
        b = Builder(Port("x", (2,), -1, 3))
        b.add(names["Negate"]("y", "layer", ("x",)))
        program = b.program("y")
        assert (program.outputs[0].lo, program.outputs[0].hi) == (-3, 1)
        read = from_onnx(to_onnx(program))
        assert interpret(read, {"x": np.array([3, -1])})["y"].tolist() == [-3, 1]
    finally:
        OPERATORS.pop("Negate", None)
