"""QONNX graphs become integer programs that give the float graph's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.qonnx_graphs import GraphMaker, float_outputs
from torusformer import BitWidthError, LoweringError
from torusformer.fhe_compile.frontend.ingest import ingest
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Linear, MatMul, Port, Program, Round, Table
from torusformer.fhe_compile.program.onnx_io import from_onnx, to_onnx


def quantized(port: Port, x: np.ndarray) -> np.ndarray:
    q = np.rint(x.astype(np.float32) / np.float32(port.scale) + np.float32(port.zero_point))
    return np.clip(q, port.lo, port.hi).astype(np.int64)


def check(model: onnx.ModelProto, samples: int = 12, spread: float = 3.0) -> Program:
    """Float graph = program in the interpreter = reloaded program = ONNX Runtime, on samples."""
    program = ingest(model)
    (port,) = program.inputs
    rng = np.random.default_rng(0)
    again = from_onnx(to_onnx(program))
    session = ort.InferenceSession(to_onnx(program).SerializeToString())
    ranges = program.ranges
    for _ in range(samples):
        x = rng.normal(0, spread, port.shape).astype(np.float32)
        q_x = quantized(port, x)
        values = interpret(program, {port.name: q_x})
        for name, value in values.items():
            assert (value >= ranges[name].lo).all() and (value <= ranges[name].hi).all(), name
        reloaded = interpret(again, {port.name: q_x})
        by_ort = session.run(None, {port.name: q_x})
        for out, expected, from_ort in zip(
            program.outputs, float_outputs(model, x), by_ort, strict=True
        ):
            real = out.scale * (values[out.name] - out.zero_point)
            np.testing.assert_allclose(real, expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(values[out.name], reloaded[out.name])
            np.testing.assert_array_equal(values[out.name], from_ort)
    return program


def kinds(program: Program) -> list[str]:
    return [n.op for n in program.nodes]


W = np.array([[1, -2, 3], [0, 1, -1], [2, 0, 1], [-3, 1, 1]])


def test_linear_with_bias_and_activation_is_one_linear_and_one_table() -> None:
    g = GraphMaker((1, 4))
    y = g.op("MatMul", g.quant("x", 0.5), g.weight(W, np.array([0.25, 0.125, 0.3])))
    y = g.op("Add", y, g.const([0.11, -0.2, 0.3]))
    half = g.op("Mul", y, g.const(0.5))
    erf = g.op("Erf", g.op("Div", y, g.const(2**0.5)))
    gelu = g.op("Mul", half, g.op("Add", erf, g.const(1.0)))
    program = check(g.model(g.quant(gelu, 0.31, 3)))
    assert kinds(program) == ["Linear", "Table"]


def test_gemm_and_left_constant() -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5)
    y = g.op("Gemm", x, g.weight(W.T), g.const([0.1, 0.2, 0.3]), transB=1)
    y = g.quant(y, 0.4, 4)
    left = g.weight(np.array([[1, 2, -1]]), 0.5)
    z = g.op("MatMul", left, g.op("Transpose", y, perm=[1, 0]))
    check(g.model(z))


def test_sums_and_means_of_constants_are_constants() -> None:
    g = GraphMaker((1, 4))
    bias = g.op("Sum", g.const([0.1, 0.2, 0.3]), g.const([[0.5]]), g.const([1.0, 0.0, -1.0]))
    mean = g.op("Mean", bias, g.const([0.7, 0.1, 0.0]))
    y = g.op("Add", g.op("MatMul", g.quant("x", 0.5), g.weight(W)), mean)
    program = check(g.model(g.quant(y, 0.31, 3)))
    assert kinds(program) == ["Linear", "Table"]


def test_rounding_by_a_power_of_two_becomes_a_round() -> None:
    g = GraphMaker((1, 4))
    acc = g.op("MatMul", g.quant("x", 0.5), g.weight(W))  # steps of 0.125
    acc = g.op("Add", acc, g.const(np.array([3, 0, -2]) * 0.125 - 0.125 / 2))
    rounded = g.quant(acc, 0.5, 8)
    program = check(g.model(g.quant(g.op("Relu", rounded), 0.7, 3, signed=False)))
    assert kinds(program) == ["Linear", "AddConst", "Round", "Table"]
    assert next(n for n in program.nodes if isinstance(n, Round)).lsbs == 2


def test_rounding_with_possible_ties_stays_a_table() -> None:
    g = GraphMaker((1, 4))
    acc = g.op("MatMul", g.quant("x", 0.5), g.weight(W))
    program = check(g.model(g.quant(acc, 0.5, 8)))
    assert kinds(program) == ["Linear", "Table"]


def test_requantizing_with_the_same_quantizer_costs_nothing() -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5, 3)
    program = check(g.model(g.quant(x, 0.5, 4)))
    assert "Table" not in kinds(program) and "Round" not in kinds(program)


def test_residual_with_a_shared_quantizer_is_an_integer_add() -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5)
    branch = g.quant(g.op("MatMul", x, g.weight(np.eye(4, dtype=int) * 2, 0.3)), 0.5)
    program = check(g.model(g.op("Add", x, branch)))
    assert kinds(program) == ["Linear", "Table", "Add"]


def test_scales_in_a_small_whole_ratio_are_brought_together() -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5)
    branch = g.quant(g.op("MatMul", x, g.weight(np.eye(4, dtype=int), 0.3)), 0.75)
    program = check(g.model(g.op("Sub", x, branch)))
    assert kinds(program) == ["Linear", "Table", "Scale", "Scale", "Sub"]


def test_attention_products_softmax_and_layout() -> None:
    g = GraphMaker((1, 3, 4))
    rng = np.random.default_rng(1)
    x = g.quant("x", 0.5)

    def heads(name: str) -> str:
        y = g.op("MatMul", x, g.weight(rng.integers(-2, 3, (4, 4))), layer=name)
        y = g.op("Reshape", g.quant(y, 0.6, 3, layer=name), g.const([1, 3, 2, 2], np.int64))
        return g.op("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = heads("q"), heads("k"), heads("v")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    p = g.quant(g.op("Mul", scores, g.const(0.7)), 0.4, 4)
    e = g.quant(g.op("Exp", p), 0.5, 4, signed=False)
    total = g.op("ReduceSum", e, g.const([-1], np.int64), keepdims=1)
    log = g.quant(g.op("Log", g.op("Add", total, g.const(0.25))), 0.4, 4)
    a = g.quant(g.op("Exp", g.op("Sub", p, log)), 0.14, 3, signed=False)
    out = g.op("Transpose", g.op("MatMul", a, v), perm=[0, 2, 1, 3])
    out = g.op("Reshape", out, g.const([1, 3, 4], np.int64))
    pooled = g.op("ReduceMean", g.quant(out, 0.3, 3), axes=[1], keepdims=0)
    program = check(g.model(pooled))
    assert kinds(program).count("MatMul") == 2
    assert {n.layer for n in program.nodes if isinstance(n, Linear)} == {"q", "k", "v"}
    assert sum(isinstance(n, MatMul) for n in program.nodes) == 2


def test_layer_norm_in_table_form() -> None:
    g = GraphMaker((1, 2, 4))
    x = g.quant("x", 0.5, 4)
    mean = g.quant(g.op("ReduceMean", x, axes=[-1], keepdims=1), 0.5, 4)
    c = g.quant(g.op("Sub", x, mean), 0.5, 4)
    sq = g.quant(g.op("Mul", c, c), 0.9, 4, signed=False)
    var = g.op("ReduceMean", sq, axes=[-1], keepdims=1)
    r = g.quant(
        g.op("Reciprocal", g.op("Sqrt", g.op("Add", var, g.const(0.1)))), 0.4, 2, signed=False
    )
    y = g.op("Mul", g.op("Mul", c, r), g.const([1.0, 0.5, 2.0, 1.3]))
    y = g.op("Add", y, g.const([0.1, 0.0, -0.3, 0.2]))
    check(g.model(g.quant(y, 0.45, 3)))


def test_batch_norm_folds_into_the_next_table() -> None:
    g = GraphMaker((1, 4))
    y = g.op("MatMul", g.quant("x", 0.5), g.weight(W))
    stats = [g.const(v) for v in ([1.1, 0.4, 2.0], [0.1, 0.0, -1.0], [0.2, 0.1, 0.3], [1, 2, 0.5])]
    y = g.op("BatchNormalization", y, *stats)
    program = check(g.model(g.quant(y, 0.21, 3)))
    assert kinds(program) == ["Linear", "Table"]


def test_slices_gathers_splits_and_concatenation() -> None:
    g = GraphMaker((1, 4, 4))
    x = g.quant("x", 0.5)
    first = g.op("Gather", x, g.const(0, np.int64), axis=1)
    picked = g.op("Gather", x, g.const([3, 1], np.int64), axis=1)
    tail = g.op("Slice", x, *(g.const(v, np.int64) for v in ([1], [4], [1], [2])))
    row = g.op("Unsqueeze", first, g.const([1], np.int64))
    learned = g.quant(g.const([[[1.0, -0.5, 0.5, 1.5]]]), 0.5)
    joined = g.op("Concat", learned, row, picked, tail, axis=1)
    program = check(g.model(joined))
    assert program.outputs[0].shape == (1, 6, 4)


def test_function_of_two_tensors_is_one_packed_table() -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5, 3)
    y = g.quant(g.op("MatMul", x, g.weight(np.eye(4, dtype=int)[::-1], 0.3)), 0.77, 3)
    ratio = g.op("Max", g.op("Add", x, g.const(0.3)), y)
    program = check(g.model(g.quant(ratio, 0.21, 4)))
    assert kinds(program)[-1] == "Table"
    assert "Mul" not in kinds(program)


def test_pending_work_crosses_a_change_of_layout() -> None:
    g = GraphMaker((1, 2, 4))
    x = g.quant("x", 0.5)
    y = g.op("Add", g.op("Tanh", x), g.const([0.1, 0.2, 0.3, 0.4]))
    y = g.op("Transpose", y, perm=[0, 2, 1])
    program = check(g.model(g.quant(y, 0.13, 4)))
    assert kinds(program) == ["Transpose", "Table"]


def test_zero_point_and_scaled_input() -> None:
    g = GraphMaker((1, 4))
    x = g.quant(g.op("Div", "x", g.const(2.0)), 0.25, 4, zero=5.0, signed=False)
    y = g.op("MatMul", x, g.weight(W))
    check(g.model(g.quant(y, 0.33, 5, zero=9.0, signed=False)))


def broken(make: str) -> onnx.ModelProto:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5)
    match make:
        case "softmax":
            return g.model(g.quant(g.op("Softmax", x, layer="block.attn")))
        case "float weight":
            return g.model(g.op("MatMul", x, g.const(np.sqrt(W + 4)), layer="block.fc"))
        case "unquantized operand":
            return g.model(g.op("MatMul", g.op("Exp", x), g.weight(W), layer="block.fc"))
        case "no input quantizer":
            return g.model(g.op("MatMul", "x", g.weight(W), layer="block.fc"))
        case "float output":
            return g.model(g.op("Exp", x, layer="head"))
        case "scales apart":
            y = g.quant(g.op("Exp", x), 0.0717, 7)
            return g.model(g.quant(g.op("Add", x, y, layer="res"), 0.1, layer="res"))
        case "foreign domain":
            return g.model(g.op("Magic", x, layer="odd", domain="com.example"))
    raise AssertionError(make)


@pytest.mark.parametrize(
    ("make", "layer", "cure"),
    [
        ("softmax", "block.attn", "exp, sum and log"),
        ("float weight", "block.fc", "weight_bit_width"),
        ("unquantized operand", "block.fc", "QuantIdentity"),
        ("no input quantizer", "block.fc", "QuantIdentity"),
        ("float output", "t1", "QuantIdentity"),
        ("foreign domain", "odd", "QONNX's quantizers"),
    ],
)
def test_errors_name_the_layer_and_the_cure(make: str, layer: str, cure: str) -> None:
    with pytest.raises(LoweringError) as caught:
        ingest(broken(make))
    assert layer in str(caught.value) and cure in str(caught.value)


def test_summands_without_a_common_scale_name_the_bits_and_the_cure() -> None:
    with pytest.raises(BitWidthError, match=r"res: .* 9 bits, the limit is 8; .*same quantizer"):
        ingest(broken("scales apart"))


def test_a_table_over_sixteen_bits_names_the_knob() -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5, 8)
    acc = g.op("MatMul", x, g.weight(np.full((4, 2), 127), 0.1, 8))
    with pytest.raises(BitWidthError, match=r"mlp: .*17 bits.*16.*accumulator_bit_width"):
        ingest(g.model(g.quant(acc, 0.3, layer="mlp")))


def test_a_table_that_is_not_a_number_is_refused() -> None:
    g = GraphMaker((1, 4))
    root = g.op("Sqrt", g.quant("x", 0.5))
    with pytest.raises(LoweringError, match="not a number"):
        ingest(g.model(g.quant(root, 0.3, layer="norm")))


def test_table_count_is_one_a_channel(tmp_path: Path) -> None:
    g = GraphMaker((1, 4))
    y = g.op("MatMul", g.quant("x", 0.5), g.weight(W))
    program = check(g.model(g.quant(g.op("Add", y, g.const([0.0, 0.0, 5.0])), 0.5)))
    table = next(n for n in program.nodes if isinstance(n, Table))
    reach = program.ranges[table.inputs[0]]
    assert table.values.size == 2 * (reach.hi.max() - reach.lo.min() + 1)


def test_outputs_bear_the_graphs_names() -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5)
    y = g.op("MatMul", x, g.weight(W))
    z = g.op("Mul", y, g.const(2.0))
    program = check(g.model(y, z, x))
    assert [p.name for p in program.outputs] == [y, z, x]
