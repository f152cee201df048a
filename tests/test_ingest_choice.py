"""A token in a QONNX graph: looked up, normalised and projected without a bootstrap."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.qonnx_graphs import GraphMaker, float_outputs
from torusformer import LoweringError
from torusformer.fhe_compile import plan
from torusformer.fhe_compile.frontend.ingest import ingest
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Linear, Table

RNG = np.random.default_rng(0)
EMBEDDING = RNG.normal(0, 1, (5, 4))


class TokenGraph(GraphMaker):
    """A graph over an index of `shape`, looked up in `EMBEDDING`."""

    def __init__(self, shape: tuple[int, ...] = (1,)) -> None:
        super().__init__(shape)
        self.row = self.op("Gather", self.const(EMBEDDING), "x", layer="embed")

    def model(self, *outputs: str) -> onnx.ModelProto:
        model = super().model(*outputs)
        del model.graph.input[:]
        model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.INT64, self.shape))
        return model


def check(g: TokenGraph, *outputs: str):
    """The program gives the float graph's numbers for every token."""
    model = g.model(*outputs)
    program = ingest(model)
    assert (program.inputs[0].shape, program.inputs[0].one_hot) == ((1, 5), True)
    for token in range(5):
        values = interpret(program, {"x": np.eye(5, dtype=np.int64)[[token]]})
        expected = float_outputs(model, np.full(g.shape, token))
        for port, real in zip(program.outputs, expected, strict=True):
            found = port.scale * (values[port.name] - port.zero_point)
            np.testing.assert_allclose(found, real, rtol=1e-4, atol=1e-5)
    return program


def test_everything_of_a_token_alone_is_one_linear_map() -> None:
    g = TokenGraph()
    moved = g.op("Add", g.row, g.const(RNG.normal(0, 1, 4)), layer="positions")
    mean = g.op("ReduceMean", g.op("Mul", moved, moved), axes=[-1], keepdims=1)
    normed = g.op("Div", moved, g.op("Sqrt", mean))
    query = g.quant(g.op("MatMul", normed, g.const(RNG.normal(0, 1, (4, 6)))), 0.5, 3)
    heads = g.op("Reshape", query, g.const([1, 2, 3], np.int64))
    program = check(g, heads)
    assert [node.op for node in program.nodes] == ["Linear", "Reshape"]
    assert plan(program).pbs_total == 0


def test_layers_of_a_token_alone_are_one_linear_map() -> None:
    g = TokenGraph()
    x = g.quant(g.row, 0.25, 4, layer="stream")
    w = g.weight(RNG.integers(-1, 2, (4, 4)))
    hidden = g.quant(g.op("Relu", g.op("MatMul", x, w)), 0.5, 3, layer="mlp")
    # The weight is constant and x is chosen: so are the product, the function and the sum.
    total = g.quant(g.op("Add", hidden, x), 0.25, 5)
    assert [type(n) for n in check(g, total).nodes] == [Linear]


def test_a_second_input_makes_tables() -> None:
    g = TokenGraph()
    g.nodes.append(helper.make_node("Identity", ["cached"], ["memory"], name="/memory/Identity"))
    memory = g.quant("memory", 0.25, 3, layer="memory")
    x = g.quant(g.row, 0.25, 3, layer="stream")
    y = g.quant(g.op("Relu", g.op("Add", x, memory)), 0.5, 3, layer="mlp")
    model = g.model(y)
    model.graph.input.append(helper.make_tensor_value_info("cached", TensorProto.FLOAT, (1, 4)))
    program = ingest(model)
    assert {port.name: port.one_hot for port in program.inputs} == {"cached": False, "x": True}
    assert sum(isinstance(node, Table) for node in program.nodes) == 1


def test_what_is_not_quantized_before_it_meets_others_is_named() -> None:
    g = TokenGraph()
    x = g.quant(g.row, 0.25, 3)
    g.nodes.append(helper.make_node("Identity", ["cached"], ["memory"], name="/memory/Identity"))
    y = g.op("Add", g.quant("memory", 0.25, 3), g.op("Exp", x), layer="mix")
    model = g.model(g.quant(y))
    model.graph.input.append(helper.make_tensor_value_info("cached", TensorProto.FLOAT, (1, 4)))
    with pytest.raises(LoweringError, match=r"mix \(Add\).*add a QuantIdentity"):
        ingest(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenGraph((3,)), "holds 3 indices"),
        (lambda: _with(lambda g: g.op("Sqrt", "x")), "computes with an index"),
        (lambda: _with(lambda g: g.quant("x")), "quantizes an index"),
        (lambda: _with(lambda g: g.op("Gather", g.const(np.ones((3, 4))), "x")), "5 and of 3 rows"),
    ],
)
def test_an_index_that_is_used_otherwise_is_refused(make, message: str) -> None:
    g = make()
    with pytest.raises(LoweringError, match=message):
        ingest(g.model(g.quant(g.row)))


def _with(use) -> TokenGraph:
    g = TokenGraph()
    use(g)
    return g
