"""Tokens in a QONNX graph: what depends on each alone takes no bootstrap, both ways in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.qonnx_graphs import GraphMaker, float_outputs
from torusformer import LoweringError
from torusformer.fhe_compile import compile_program, lower, plan
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Linear, Program, Table
from torusformer.fhe_compile.program.onnx_io import from_onnx, to_onnx
from torusformer.fhe_compile.program.ports import check_array, quantize_array

RNG = np.random.default_rng(0)
VOCABULARY, WIDTH = 5, 4
EMBEDDING = RNG.normal(0, 1, (VOCABULARY, WIDTH))
WAYS = ("one-hot", "lookup")


class TokenGraph(GraphMaker):
    """A graph over tokens of `shape`, looked up in `EMBEDDING`: `row` is (*shape, 4)."""

    def __init__(self, shape: tuple[int, ...] = (1,)) -> None:
        super().__init__(shape, TensorProto.INT64)
        self.row = self.op("Gather", self.const(EMBEDDING), "x", layer="embed")

    def normed(self, x: str) -> str:
        """Divided by its root mean square."""
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        return self.op("Div", x, self.op("Sqrt", mean))

    def projected(self, x: str, scale: float = 0.5, bits: int = 3, layer: str = "net") -> str:
        weight = self.const(RNG.normal(0, 1, (WIDTH, WIDTH)))
        return self.quant(self.op("MatMul", x, weight), scale, bits, layer=layer)

    def keep(self, dtype: type = np.float32) -> str:
        """1 for a token, 0 for padding, which is token 0."""
        bits = self.const(np.arange(VOCABULARY) > 0, dtype)
        return self.quant(self.op("Gather", bits, "x", layer="keep"), 1.0, 1, signed=False)


def check(model: onnx.ModelProto, way: str, samples: Sequence[np.ndarray] | None = None) -> Program:
    """Float graph = program = program reloaded = ONNX Runtime, for all texts of one token."""
    program = lower(model, tokens=way)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    port = next(p for p in program.inputs if p.name == "x")
    assert (port.one_hot, port.table is not None) == (way == "one-hot", way == "lookup")
    again = from_onnx(to_onnx(program))
    session = ort.InferenceSession(to_onnx(program).SerializeToString())
    ranges = program.ranges
    rng = np.random.default_rng(1)
    texts = [np.full(shape, token) for token in range(VOCABULARY)]
    texts += [rng.integers(0, VOCABULARY, shape) for _ in range(4)]
    for text in samples or texts:
        x = {"x": check_array(port, quantize_array(port, text.reshape(port.real_shape)))}
        values, reloaded = interpret(program, x), interpret(again, x)
        for name, value in values.items():
            assert (ranges[name].lo <= value).all() and (value <= ranges[name].hi).all(), name
        for out, expected, by_ort in zip(
            program.outputs, float_outputs(model, text), session.run(None, x), strict=True
        ):
            found = out.scale * (values[out.name] - out.zero_point)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(values[out.name], reloaded[out.name])
            np.testing.assert_array_equal(values[out.name], by_ort)
    return program


def heads_graph(count: int) -> TokenGraph:
    """Positions, a norm, a projection, heads: nothing that two tokens meet in."""
    g = TokenGraph((1, count))
    moved = g.op("Add", g.row, g.const(RNG.normal(0, 1, (count, WIDTH))), layer="positions")
    query = g.projected(g.normed(moved))
    heads = g.op("Reshape", query, g.const([1, count, 2, 2], np.int64))
    g.outputs = (g.op("Transpose", heads, perm=[0, 2, 1, 3]),)
    return g


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3,), (1, 3)])
def test_everything_of_a_token_alone_is_linear(shape: tuple[int, ...], way: str) -> None:
    g = TokenGraph(shape)
    program = check(g.model(g.projected(g.normed(g.row))), way)
    assert plan(program).pbs_total == 0
    kinds = [node.op for node in program.nodes if node.op != "Reshape"]
    assert kinds == (["Linear"] if way == "one-hot" else []) or len(program.nodes) == 1
    port = program.inputs[0]
    assert port.real_shape == ((1,) if shape[-1] == 1 and way == "one-hot" else (1, shape[-1]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 3])
def test_positions_and_heads_are_linear(count: int, way: str) -> None:
    g = heads_graph(count)
    program = check(g.model(*g.outputs), way)
    assert plan(program).pbs_total == 0
    assert sum(isinstance(n, Linear) for n in program.nodes) == (count if way == "one-hot" else 0)
    if way == "lookup":
        table = program.inputs[0].table
        assert table is not None and table.shape == (count, VOCABULARY, WIDTH)


@pytest.mark.parametrize("way", WAYS)
def test_layers_of_a_token_alone_are_linear(way: str) -> None:
    g = TokenGraph((1, 2))
    x = g.quant(g.row, 0.25, 4, layer="stream")
    w = g.weight(RNG.integers(-1, 2, (4, 4)))
    hidden = g.quant(g.op("Relu", g.op("MatMul", x, w)), 0.5, 3, layer="mlp")
    # The weight is constant and x is of one token: so are the product, the function and the sum.
    total = g.quant(g.op("Add", hidden, x), 0.25, 5)
    assert plan(check(g.model(total), way)).pbs_total == 0


@pytest.mark.parametrize("way", WAYS)
def test_tokens_compared_sliced_and_joined_with_a_class_token(way: str) -> None:
    g = TokenGraph((1, 3))
    letters = g.op("Cast", g.op("Greater", "x", g.const(1, np.int64)), to=TensorProto.FLOAT)
    letters = g.op("Unsqueeze", letters, g.const([-1], np.int64))
    x = g.op("Add", g.row, letters)
    tail = g.op("Slice", x, *(g.const(v, np.int64) for v in ([1], [3], [1])))
    joined = g.op("Concat", g.const(RNG.normal(0, 1, (1, 1, WIDTH))), tail, axis=1)
    stream = g.quant(joined, 0.25, 4)
    swapped = g.op("Gather", stream, g.const([2, 0], np.int64), axis=1)
    flat = g.op("Reshape", swapped, g.const([1, -1], np.int64))
    assert plan(check(g.model(stream, flat), way)).pbs_total == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_quantized_table_needs_no_other_quantizer(way: str) -> None:
    g = GraphMaker((1, 3), TensorProto.INT64)
    table = g.weight(RNG.integers(-4, 4, (VOCABULARY, WIDTH)))
    rows = g.op("Gather", table, "x")
    bag = g.op("MatMul", rows, g.weight(RNG.integers(-1, 2, (WIDTH, 2))))
    program = check(g.model(g.op("ReduceSum", bag, g.const([1], np.int64), keepdims=0)), way)
    assert plan(program).pbs_total == 0


def attention_graph(count: int, padded: bool) -> TokenGraph:
    """One head of attention over tokens, its mean over those that are kept, and two logits."""
    g = TokenGraph((1, count))
    moved = g.op("Add", g.row, g.const(RNG.normal(0, 0.5, (count, WIDTH))), layer="positions")
    x = g.normed(moved)
    q, k, v = (g.projected(x, 1.1, 2, layer=name) for name in "qkv")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]), layer="scores")
    scores = g.quant(g.op("Mul", scores, g.const(0.31)), 0.47, 3, layer="scores")
    weights = g.op("Exp", scores, layer="exp")
    keep = g.keep()
    if padded:
        row = g.op("Unsqueeze", keep, g.const([1], np.int64))
        weights = g.op("Mul", weights, row, layer="exp")
    weights = g.quant(weights, 0.81, 3, signed=False, layer="exp")
    mixed = g.quant(g.op("MatMul", weights, v, layer="mix"), 1.3, 3, layer="mix")
    if padded:
        column = g.op("Unsqueeze", keep, g.const([1], np.int64))
        total = g.op("MatMul", column, mixed, layer="pool")  # (1, 1, 4)
        length = g.op("ReduceSum", keep, g.const([1], np.int64), keepdims=1)
        share = g.op("Div", g.const(1.0), g.op("Max", length, g.const(1.0)))
        share = g.op("Unsqueeze", g.quant(share, 0.17, 3, signed=False), g.const([1], np.int64))
        pooled = g.quant(g.op("Mul", total, share, layer="pool"), 0.9, 3, layer="pool")
    else:
        pooled = g.quant(g.op("ReduceMean", mixed, axes=[1], keepdims=1), 0.4, 3, layer="pool")
    logits = g.op("MatMul", pooled, g.weight(RNG.integers(-2, 3, (WIDTH, 2))), layer="head")
    g.outputs = (g.op("Reshape", logits, g.const([1, 2], np.int64)),)
    return g


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padded", [False, True])
def test_attention_between_tokens(padded: bool, way: str) -> None:
    g = attention_graph(3, padded)
    program = check(g.model(*g.outputs), way)
    assert not any(layer in "qkv" for layer in plan(program).pbs_by_layer)


@pytest.mark.parametrize("way", WAYS)
def test_padding_behind_a_text_changes_nothing(way: str) -> None:
    g = attention_graph(3, padded=True)
    program = lower(g.model(*g.outputs), tokens=way)
    # Queries of padding count for nothing and keys of padding weigh nothing: what else differs is
    # which numbers padding is embedded as.
    table = EMBEDDING.copy()
    table[0] = 7.0
    other = g.model(*g.outputs)
    (initializer,) = [t for t in other.graph.initializer if list(t.dims) == [VOCABULARY, WIDTH]]
    initializer.CopyFrom(onnx.numpy_helper.from_array(table.astype(np.float32), initializer.name))
    changed = lower(other, tokens=way)
    for text in ([1, 0, 0], [3, 4, 0], [0, 0, 0]):
        answers = [
            interpret(p, {"x": quantize_array(p.inputs[0], [text])})[p.outputs[0].name]
            for p in (program, changed)
        ]
        np.testing.assert_array_equal(*answers)


def test_a_padding_bit_costs_one_bit() -> None:
    bits = []
    for padded in (False, True):
        g = TokenGraph((1, 3))
        scores = g.op(
            "MatMul", g.projected(g.row), g.op("Transpose", g.projected(g.row), perm=[0, 2, 1])
        )
        heads = g.op("Reshape", g.quant(scores, 4.1, 3), g.const([1, 1, 3, 3], np.int64))
        weights = g.op("Exp", heads)
        if padded:
            keep = g.op("Unsqueeze", g.keep(), g.const([1, 2], np.int64))
            weights = g.op("Mul", weights, keep)
        program = check(g.model(g.quant(weights, 0.7, 3, signed=False)), "one-hot")
        ranges = program.ranges
        last = [n for n in program.nodes if isinstance(n, Table)][-1]
        bits.append(ranges[last.inputs[0]].span_bits)
    assert bits == [3, 4]


def test_equal_columns_are_looked_up_once() -> None:
    g = TokenGraph((1, 2))
    keep = g.keep()
    x = g.quant(g.row, 0.25, 4)
    total = g.op("ReduceSum", keep, g.const([1], np.int64), keepdims=1)
    rows = g.op("Unsqueeze", keep, g.const([2], np.int64))
    turned = g.op("Transpose", x, perm=[0, 2, 1])
    length = g.op("ReduceSum", x, g.const([1], np.int64), keepdims=0)
    program = check(g.model(total, rows, turned, length), "lookup")
    (port,) = program.inputs
    assert port.table is not None and port.table.shape == (1, VOCABULARY, WIDTH + 1)
    # Each column has its own range: a padding bit stays one bit.
    reach = program.ranges[port.name]
    assert sorted((reach.hi - reach.lo)[0, 0])[0] == 1


def test_a_second_input_makes_tables() -> None:
    g = TokenGraph()
    g.nodes.append(helper.make_node("Identity", ["cached"], ["memory"], name="/memory/Identity"))
    memory = g.quant("memory", 0.25, 3, layer="memory")
    x = g.quant(g.row, 0.25, 3, layer="stream")
    y = g.quant(g.op("Relu", g.op("Add", x, memory)), 0.5, 3, layer="mlp")
    model = g.model(y)
    model.graph.input.append(helper.make_tensor_value_info("cached", TensorProto.FLOAT, (1, 4)))
    program = lower(model)
    assert {port.name: port.one_hot for port in program.inputs} == {"cached": False, "x": True}
    assert sum(isinstance(node, Table) for node in program.nodes) == 1


def test_two_token_inputs_meet_as_integers() -> None:
    g = TokenGraph((1, 2))
    other = g.op("Gather", g.const(RNG.normal(0, 1, (3, WIDTH))), "other", layer="segment")
    y = g.op("Add", g.quant(g.row, 0.25, 4), g.quant(other, 0.25, 4))
    model = g.model(g.quant(g.op("Relu", y), 0.5, 3))
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.INT64, (1, 2)))
    for way in WAYS:
        program = lower(model, tokens=way)
        assert sorted(port.vocabulary or 0 for port in program.inputs) == [3, 5]
        assert plan(program).pbs_total == 2 * WIDTH


def test_whole_numbers_that_look_nothing_up_are_numbers() -> None:
    g = GraphMaker((1, 3), TensorProto.INT64)
    bits = g.quant(g.op("Cast", "x", to=TensorProto.FLOAT), 1.0, 1, signed=False)
    (port,) = lower(g.model(g.op("ReduceSum", bits, g.const([1], np.int64)))).inputs
    assert (port.vocabulary, port.lo, port.hi) == (None, 0, 1)


def test_the_models_metadata_choose_the_way() -> None:
    g = TokenGraph((1, 2))
    model = g.model(g.projected(g.row))
    assert lower(model).inputs[0].one_hot
    helper.set_model_props(model, {"tokens": "lookup"})
    assert lower(model).inputs[0].table is not None
    assert lower(model, tokens="one-hot").inputs[0].one_hot
    helper.set_model_props(model, {"tokens": "raw"})
    with pytest.raises(LoweringError, match=r"tokens are 'raw'; .*'one-hot' or .*'lookup'"):
        lower(model)


def mixed_in_floating_point() -> TokenGraph:
    g = TokenGraph((1, 2))
    total = g.op("ReduceSum", g.row, g.const([1], np.int64), layer="bag")
    g.outputs = (g.quant(total),)
    return g


def two_vocabularies() -> TokenGraph:
    g = TokenGraph((1, 2))
    g.outputs = (g.quant(g.op("Gather", g.const(np.ones((3, 4))), "x")),)
    return g


def two_texts() -> TokenGraph:
    g = TokenGraph((2, 3))
    g.outputs = (g.quant(g.row),)
    return g


def columns() -> TokenGraph:
    g = TokenGraph((1, 2))
    g.outputs = (g.quant(g.op("Gather", g.const(np.ones((3, 5))), "x", axis=1)),)
    return g


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (mixed_in_floating_point, r"bag \(ReduceSum\).*'x'.*add a QuantIdentity"),
        (two_vocabularies, "3 and of 5 rows"),
        (two_texts, r"\(2, 3\); export with batch 1"),
        (columns, "rows of a constant table"),
    ],
)
def test_what_cannot_be_looked_up_is_named(make, message: str) -> None:
    g = make()
    with pytest.raises(LoweringError, match=message):
        lower(g.model(*g.outputs))


SCALES = (0.313, 0.477, 0.529, 0.761, 0.917)


@st.composite
def token_graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Float work on tokens, quantized anywhere, at last perhaps mixed; scales without ties."""
    count = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    g = TokenGraph((1, count))
    x = g.row
    works = ["positions", "norm", "project", "gelu", "softmax", "quant", "turn", "class", "layer"]
    for work in draw(st.lists(st.sampled_from(works), max_size=4)):
        match work:
            case "positions":
                x = g.op("Add", x, g.const(rng.normal(0, 1, (1, count, WIDTH))))
            case "norm":
                x = g.normed(g.op("Add", x, g.const(0.37)))
            case "project":
                x = g.op("MatMul", x, g.const(rng.normal(0, 0.5, (WIDTH, WIDTH))))
            case "gelu":
                x = g.op("Mul", x, g.op("Sigmoid", x))
            case "softmax":
                x = g.op("Softmax", x, axis=-1)
            case "layer":
                x = g.op("LayerNormalization", x, g.const(np.ones(WIDTH)), axis=-1)
            case "quant":
                x = g.quant(x, draw(st.sampled_from(SCALES)), 4)
            case "turn":
                x = g.op("Transpose", x, perm=[0, 2, 1])
                x = g.op("Transpose", g.op("Abs", x), perm=[0, 2, 1])
            case "class":
                count += 1
                x = g.op("Concat", g.const(rng.normal(0, 1, (1, 1, WIDTH))), x, axis=1)
    x = g.quant(x, draw(st.sampled_from(SCALES)), 3)
    match draw(st.sampled_from(["none", "sum", "product", "first"])):
        case "sum":
            x = g.op("ReduceSum", x, g.const([1], np.int64), keepdims=1)
        case "product":
            x = g.op("MatMul", x, g.op("Transpose", x, perm=[0, 2, 1]))
        case "first":
            x = g.op("Gather", x, g.const(0, np.int64), axis=1)
    return g.model(x)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(token_graphs(), st.sampled_from(WAYS))
def test_random_work_on_tokens(model: onnx.ModelProto, way: str) -> None:
    check(model, way)


def weighted_sum(count: int) -> TokenGraph:
    """Values of two numbers, weighted by the exponential of a score, and 0 for padding."""
    g = TokenGraph((1, count))
    place = g.op("Add", g.row, g.const(RNG.normal(0, 0.5, (count, WIDTH))), layer="positions")
    columns = g.const(RNG.normal(0, 1, (WIDTH, 1)))
    score = g.quant(g.op("MatMul", place, columns), 1.1, 2, layer="score")
    most = g.quant(g.op("ReduceSum", score, g.const([1], np.int64)), 1.1, 3, layer="most")
    weight = g.op("Exp", g.op("Sub", score, most), layer="exp")
    weight = g.op("Mul", weight, g.op("Unsqueeze", g.keep(), g.const([2], np.int64)), layer="exp")
    weight = g.quant(weight, 0.71, 1, signed=False, layer="exp")
    value = g.quant(g.op("Slice", place, *(g.const(v, np.int64) for v in ([0], [1], [2]))), 1.3, 1)
    g.outputs = (g.op("MatMul", g.op("Transpose", weight, perm=[0, 2, 1]), value),)
    return g


@pytest.mark.parametrize("way", WAYS)
def test_padded_sums_run_encrypted(way: str) -> None:
    g = weighted_sum(2)
    program = check(g.model(*g.outputs), way)
    circuit, (port,), (out,) = compile_program(program), program.inputs, program.outputs
    for text in ([2, 0], [3, 1]):
        x = {"x": quantize_array(port, [text])}
        expected = circuit.run(x, fhe="disable")[out.name]
        np.testing.assert_array_equal(circuit.graph(x)[out.name], expected)
        for mode in ("simulate", "execute"):
            np.testing.assert_array_equal(circuit.run(x, fhe=mode)[out.name], expected)
