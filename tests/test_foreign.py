"""What other people's exports are made of: each operator gives the runtime's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.foreign_checks import IMAGE, check, image, kernel
from tests.foreign_models import foreign_model
from tests.qonnx_graphs import DOMAINS, GraphMaker, runtime_outputs
from torusformer import ArtifactError, LoweringError
from torusformer.fhe_compile import compile_program, load_program, lower
from torusformer.fhe_compile.frontend.endings import LEFT_TO_CLIENT
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Max, Round, Table
from torusformer.fhe_compile.program.ports import dequantize_array, quantize_array
from torusformer.pipelines.cli import main


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("kind", ["Quant", "IntQuant"])
def test_quantizers_of_every_domain(domain: str, kind: str) -> None:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.53, 3, kind=kind, domain=domain)
    weight = g.quant(g.const(np.eye(4)[::-1] * 0.3), 0.3, 2, kind=kind, domain=domain)
    check(g.model(g.quant(g.op("MatMul", x, weight), 0.71, 2, kind=kind, domain=domain)))


@pytest.mark.parametrize("rounding", ["FLOOR", "CEIL", "ROUND_TO_ZERO", "HALF_UP"])
def test_rounding_modes_of_activations_and_inputs(rounding: str) -> None:
    g = GraphMaker((1, 4))
    signed = rounding in ("FLOOR", "CEIL")
    x = g.quant("x", 0.53, 3, signed=signed, rounding=rounding)
    y = g.op("MatMul", x, g.weight(np.eye(4, dtype=int) * 2, 0.31))
    check(g.model(g.quant(y, 0.7, 3, rounding=rounding)))


def test_signs_as_inputs_weights_and_activations() -> None:
    g, _ = image()
    x = g.op("BipolarQuant", "x", g.const(1.0), domain=DOMAINS[1])
    w = g.op(
        "BipolarQuant", g.const(g.rng.normal(0, 1, (3, 2, 3, 3))), g.const(0.25), domain=DOMAINS[1]
    )
    y = g.op("Conv", x, w, pads=[1, 1, 1, 1])
    check(g.model(g.op("BipolarQuant", y, g.const(0.5), domain=DOMAINS[2])))


def test_a_signed_quantizer_of_one_bit_gives_signs() -> None:
    g = GraphMaker((1, 4))
    program = check(g.model(g.quant(g.quant("x", 0.53, 4), 0.31, 1)))
    assert (program.outputs[0].lo, program.outputs[0].hi) == (-1, 1)


@pytest.mark.parametrize("rounding", ["FLOOR", "ROUND", "CEIL"])
@pytest.mark.parametrize("form", ["older", "newer"])
def test_trunc(form: str, rounding: str) -> None:
    g = GraphMaker((1, 4))
    x = g.op("MatMul", g.quant("x", 0.5, 3), g.weight(np.eye(4, dtype=int) * 3, 0.5))
    rest = [g.const(3)] if form == "older" else [g.const(1.0), g.const(3)]
    constants = [g.const(0.25), g.const(0.0), g.const(5), *rest]
    y = g.op("Trunc", x, *constants, domain=DOMAINS[0], rounding_mode=rounding)
    program = check(g.model(y))
    assert any(isinstance(n, Round) for n in program.nodes) == (rounding == "FLOOR")


def test_thresholds_of_channels() -> None:
    g, x = image()
    levels = np.sort(g.rng.normal(0, 1, (2, 3)), axis=1)
    y = g.op("MultiThreshold", x, g.const(levels), domain=DOMAINS[2], out_scale=0.5, out_bias=-1.0)
    check(g.model(y))


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        (IMAGE, (3, 2, 3, 3), {}),
        (IMAGE, (3, 2, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        (IMAGE, (3, 2, 2, 2), {"dilations": [2, 3]}),
        (IMAGE, (4, 1, 3, 2), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (IMAGE, (2, 1, 3, 3), {"group": 2, "auto_pad": "SAME_LOWER"}),
        (IMAGE, (3, 2, 1, 1), {"strides": [2, 2]}),
        (IMAGE, (3, 2, 6, 5), {}),
        (IMAGE, (3, 2, 8, 7), {"pads": [1, 1, 1, 1]}),
        ((1, 4, 9), (4, 2, 3), {"group": 2, "pads": [1, 1], "strides": [2]}),
        ((1, 4, 9), (4, 1, 5), {"group": 4, "auto_pad": "VALID", "dilations": [2]}),
        ((1, 1, 3, 4, 3), (2, 1, 2, 2, 2), {}),
    ],
)
@pytest.mark.parametrize("zero", [0.0, 3.0])
def test_convolutions(
    shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any], zero: float
) -> None:
    g = GraphMaker(shape)
    g.rng = np.random.default_rng(1)
    x = g.quant("x", 0.53, 3, zero=zero, signed=zero == 0)
    bias = g.const(g.rng.normal(0, 1, weight[0]))
    y = g.op("Conv", x, kernel(g, *weight), bias, kernel_shape=list(weight[2:]), **attributes)
    check(g.model(y, g.quant(g.op("Relu", y), 0.717, 3, signed=False)))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 3], "pads": [1, 0, 0, 2]},
        {"strides": [2, 2], "dilations": [2, 1], "output_padding": [1, 1]},
    ],
)
def test_transposed_convolutions(attributes: dict[str, Any]) -> None:
    g, x = image(shape=(1, 2, 3, 4))
    weight = kernel(g, 2, 3, 3, 2, scale=0.3)
    check(g.model(g.op("ConvTranspose", x, weight, g.const([0.1, 0.2, 0.3]), **attributes)))


def test_a_depthwise_convolution_takes_scales_of_its_channels() -> None:
    g, _ = image()
    scale = np.array([0.3, 0.7071]).reshape(1, 2, 1, 1)
    x = g.quant(g.op("Add", g.quant("x", 0.53, 3), g.const(0.1)), scale, 3)
    check(g.model(g.op("Conv", x, kernel(g, 2, 1, 3, 3), group=2)))
    with pytest.raises(LoweringError, match="a scale a channel along the summed axis"):
        lower(g.model(g.op("Conv", x, kernel(g, 3, 2, 3, 3))))


def test_channels_whose_scales_are_small_ratios_are_brought_together() -> None:
    g, _ = image()
    scale = np.array([0.5, 0.25]).reshape(1, 2, 1, 1)
    x = g.quant(g.op("Add", g.quant("x", 0.53, 3), g.const(0.1)), scale, 3)
    check(g.model(g.op("Conv", x, kernel(g, 3, 2, 3, 3))))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "dilations": [1, 2]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0]}),
        ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("ReduceMax", {"axes": [1, 3], "keepdims": 0}),
        ("ReduceMax", {}),
    ],
)
def test_pools(op: str, attributes: dict[str, Any]) -> None:
    g, x = image()
    check(g.model(g.op(op, x, **attributes)))


@pytest.mark.parametrize("between", ["Relu", "BatchNormalization", "Flatten"])
def test_a_maximum_of_wide_or_float_numbers_waits_for_its_quantizer(between: str) -> None:
    g, x = image()
    y = g.op("Sigmoid", g.op("Conv", x, kernel(g, 3, 2, 3, 3)))
    y = g.op("MaxPool", y, kernel_shape=[2, 2])
    if between == "BatchNormalization":
        y = g.op(
            between, y, *(g.const(v) for v in ([1, 2, 0.5], [0.1, 0, 1], [0, 0, 0], [1, 1, 1]))
        )
    else:
        y = g.op(between, y)
    program = check(g.model(g.quant(y, 0.147, 3, signed=False)))
    ranges = program.ranges
    widest = max(ranges[i].span_bits for n in program.nodes if isinstance(n, Max) for i in n.inputs)
    assert widest <= 3 and any(isinstance(n, Table) for n in program.nodes)


GEMMS: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"alpha": 0.5, "beta": 2.0}, (4, 3)),
    ({"alpha": -1.5, "transB": 1}, (3, 4)),
    ({"transA": 1}, (1, 3)),
]


@pytest.mark.parametrize(("attributes", "weight"), GEMMS)
def test_gemm_with_all_its_attributes(attributes: dict[str, Any], weight: tuple[int, int]) -> None:
    g, x = image(shape=(1, 4))
    y = g.op("Gemm", x, kernel(g, *weight, scale=0.3), g.const([0.1, 0.2, 0.3]), **attributes)
    check(g.model(y))


@pytest.mark.parametrize(
    ("equation", "weight"),
    [
        ("bij,jk->bik", (4, 3)),
        ("bij,kj->kbi", (2, 4)),
        ("bij,bij->bi", None),
        ("bij,bkj->bik", None),
        ("bij,ijk->bik", (3, 4, 2)),
        ("bij->bji", ()),
        ("bij->i", ()),
    ],
)
def test_einsum(equation: str, weight: tuple[int, ...] | None) -> None:
    g, x = image(shape=(1, 3, 4))
    others = {None: [g.quant(g.op("Neg", x), 0.71, 3)], (): []}
    given = others[weight] if weight in others else [kernel(g, *(weight or ()), scale=0.3)]
    check(g.model(g.op("Einsum", x, *given, equation=equation)))


SMALL: dict[str, Callable[[GraphMaker, str], str]] = {
    "pad": lambda g, x: g.op("Pad", x, g.const([0, 0, 1, 0, 0, 1, -1, 2], np.int64), g.const(0.37)),
    "where": lambda g, x: g.quant(
        g.op("Where", g.const(np.arange(5) > 2, bool), x, g.const(-1.1)), 0.37, 4
    ),
    "clip, as it was": lambda g, x: g.quant(g.op("Clip", x, max=1.1, min=-0.4), 0.3, 4),
    "clip that does nothing": lambda g, x: g.op("Clip", x, max=99.0, min=-99.0),
    "slice, as it was": lambda g, x: g.op("Slice", x, starts=[1], ends=[-1], axes=[2]),
    "squeeze": lambda g, x: g.op("Squeeze", x, axes=[0]),
    "sum": lambda g, x: g.op("Sum", x, x, g.const(0.25)),
    "wide max": lambda g, x: g.op("Max", *(wide(g, x, b) for b in (0.0, 1.0))),
    "wide min": lambda g, x: g.op("Min", *(wide(g, x, b) for b in (0.0, 1.0))),
    "backwards": lambda g, x: g.op("Slice", x, *(g.const([v], np.int64) for v in (-1, -99, 2, -2))),
    "nearest": lambda g, x: g.op(
        "Resize",
        x,
        "",
        g.const([1, 1, 2, 3]),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "tile": lambda g, x: g.op("Tile", x, g.const([1, 2, 1, 3], np.int64)),
    "blocks": lambda g, x: g.op(
        "SpaceToDepth", g.op("Tile", x, g.const([1, 1, 1, 2], np.int64)), blocksize=2
    ),
    "places": lambda g, x: g.op(
        "DepthToSpace", g.op("Tile", x, g.const([1, 4, 1, 1], np.int64)), blocksize=2
    ),
    "least": lambda g, x: g.op("ReduceMin", x, axes=[2]),
    "mean": lambda g, x: g.op("Mean", x, x, x),
    "flatten": lambda g, x: g.op("Flatten", x, axis=-1),
    "batch of matrices": lambda g, x: g.op("MatMul", x, kernel(g, 1, 2, 5, 3, scale=0.3)),
    "matrices on the left": lambda g, x: g.op("MatMul", kernel(g, 2, 4, 6, scale=0.3), x),
    "vector": lambda g, x: g.op("MatMul", x, kernel(g, 5, scale=0.3)),
}


def wide(g: GraphMaker, x: str, bias: float) -> str:
    return g.op("Add", g.op("MatMul", x, kernel(g, 5, 5, scale=0.3)), g.const(0.159 * 2 * bias))


@pytest.mark.parametrize("case", SMALL)
def test_operators_in_older_and_newer_forms(case: str) -> None:
    g, x = image()
    old = case in ("clip, as it was", "clip that does nothing", "slice, as it was", "squeeze")
    check(g.model(SMALL[case](g, x), opset=9 if old else 13))


def test_quantize_linear_clip_dequantize_linear_is_one_quantizer() -> None:
    g = GraphMaker((1, 2, 6, 5))
    rng = np.random.default_rng(0)

    def qdq(x: str, scale: float, low: int, high: int, zero: int = 0) -> str:
        parts = g.const(scale), g.const(zero, np.int8)
        q = g.op("QuantizeLinear", x, *parts)
        q = g.op("Clip", q, g.const(low, np.int8), g.const(high, np.int8))
        return g.op("DequantizeLinear", q, *parts)

    ints = g.const(rng.integers(-3, 4, (3, 2, 3, 3)), np.int8)
    scales = g.const([0.3, 0.21, 0.44]), g.const([0, 0, 0], np.int8)
    weight = g.op("DequantizeLinear", ints, *scales, axis=0)
    y = g.op("Conv", qdq("x", 0.53, -4, 3, 1), weight, g.const([0.1, 0.2, 0.3]))
    program = check(g.model(qdq(g.op("Relu", y), 0.617, 0, 7)))
    assert sum(isinstance(n, Table) for n in program.nodes) == 1
    assert (program.inputs[0].lo, program.inputs[0].hi) == (-5, 2)


@pytest.mark.parametrize("what", ["weight", "tokens"])
def test_quantize_linear_of_constants_and_of_tokens(what: str) -> None:
    g = GraphMaker((1, 3), TensorProto.INT64 if what == "tokens" else TensorProto.FLOAT)
    rng = np.random.default_rng(0)

    def qdq(x: str, scale: float) -> str:
        parts = g.const(scale), g.const(1, np.uint8)
        q = g.op("QuantizeLinear", x, *parts)
        q = g.op("Clip", q, g.const(0, np.uint8), g.const(7, np.uint8))
        return g.op("DequantizeLinear", q, *parts)

    if what == "tokens":
        x = qdq(g.op("Gather", g.const(rng.normal(0, 1, (4, 3))), "x"), 0.31)
    else:
        x = g.quant("x", 0.53, 3)
    y = g.op("MatMul", x, qdq(g.const(rng.normal(0, 1, (3, 2))), 0.29))
    check(g.model(qdq(y, 0.77)))


@pytest.mark.parametrize("way", ["training_mode", "more outputs"])
def test_batch_norm_in_training_is_refused(way: str) -> None:
    g, x = image()
    parts = [g.const(np.full(2, v)) for v in (0.9, 0.1, 0.2, 1.1)]
    y = g.op("BatchNormalization", x, *parts, **({"training_mode": 1} if way[0] == "t" else {}))
    if way == "more outputs":
        g.nodes[-1].output.extend(["mean", "variance"])
    with pytest.raises(LoweringError, match=r"net \(BatchNormalization\).*model.eval"):
        lower(g.model(y))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Softmax", {"axis": 1}),
        ("LogSoftmax", {"axis": 1}),
        ("Sigmoid", {}),
        ("ArgMax", {"axis": 1, "keepdims": 0}),
    ],
)
def test_what_changes_no_class_is_left_to_the_client(op: str, attributes: dict[str, Any]) -> None:
    g, x = image(shape=(1, 4))
    y = g.op("MatMul", x, kernel(g, 4, 3, scale=0.3))
    z = g.op("Identity", g.op(op, y, **attributes))
    model = g.model(z)
    if op == "ArgMax":
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    program = lower(model)
    assert program.metadata[LEFT_TO_CLIENT].startswith(op)
    assert program.outputs[0].name == z
    for sample in np.random.default_rng(0).normal(0, 2, (5, 1, 4)):
        values = interpret(program, {"x": quantize_array(program.inputs[0], sample)})
        logits = dequantize_array(program.outputs[0], values[z])
        (expected,) = runtime_outputs(g.model(y), sample)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "attributes", "cure"),
    [
        ("ConvTranspose", {"group": 2}, "without groups"),
        ("Conv", {"group": 3}, "groups"),
        ("Conv", {"auto_pad": "MIRROR"}, "auto_pad"),
        ("Conv", {"pads": [-9, 0, 0, 0]}, "reaches over"),
    ],
)
def test_what_is_no_convolution_of_ours_is_named(
    op: str, attributes: dict[str, Any], cure: str
) -> None:
    g, x = image()
    with pytest.raises(LoweringError, match=rf"net \({op}\).*{cure}"):
        lower(g.model(g.op(op, x, kernel(g, 3, 2, 3, 3), **attributes)))


def test_channels_last_are_refused_by_name() -> None:
    g, x = image()
    y = g.op("Conv", x, kernel(g, 3, 2, 3, 3), domain="qonnx.custom_op.channels_last")
    with pytest.raises(ArtifactError, match="Conv with channels last is not read"):
        lower(g.model(y))


def test_float_weights_and_pooled_floats_are_named() -> None:
    g, x = image()
    floats = g.const(g.rng.normal(0, 1, (3, 2, 3, 3)))
    with pytest.raises(LoweringError, match=r"net \(Conv\).*no quantized constant"):
        lower(g.model(g.op("Conv", x, floats)))
    y = g.op("AveragePool", g.op("Sigmoid", x), kernel_shape=[2, 2])
    with pytest.raises(LoweringError, match=r"after Sigmoid.*QuantIdentity"):
        lower(g.model(y))
    y = g.op("MaxPool", g.op("Sigmoid", x), kernel_shape=[2, 2])
    with pytest.raises(LoweringError, match=r"largest of float numbers.*QuantIdentity"):
        lower(g.model(g.op("MatMul", y, kernel(g, 4, 3, scale=0.3))))


@pytest.mark.parametrize("seed", [*range(20), 1186])  # one whose borders differ
def test_random_foreign_models(seed: int) -> None:
    check(foreign_model(seed), samples=2)


def test_a_convolution_compiles() -> None:
    """To operators that are run encrypted where they are tested."""
    g, x = image(shape=(1, 2, 4, 4))
    y = g.op("Conv", x, kernel(g, 2, 1, 3, 3, scale=0.3), pads=[1, 1, 0, 0], group=2)
    y = g.op("MaxPool", g.quant(g.op("Relu", y), 1.7, 2, signed=False), kernel_shape=[2, 1])
    y = g.op("Conv", y, kernel(g, 2, 2, 2, 2, scale=0.3), strides=[1, 2])
    program = check(g.model(g.op("Flatten", y)))
    circuit, (port,) = compile_program(program, simulate=True), program.inputs
    q_x = {"x": quantize_array(port, np.linspace(-2, 2, 32).reshape(port.shape))}
    expected, found = interpret(program, q_x), circuit.run(q_x, fhe="simulate")
    for out in program.outputs:
        np.testing.assert_array_equal(found[out.name], expected[out.name])


def test_the_command_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = GraphMaker((1, 4))
    g.rng = np.random.default_rng(0)
    model = g.model(g.op("Softmax", g.op("Gemm", "x", kernel(g, 4, 3, scale=0.3)), axis=1))
    path, samples = tmp_path / "m.onnx", tmp_path / "s.npz"
    onnx.save(model, path)
    np.savez(samples, x=np.array([[0.0, 1.5, 0.3, -0.2]]))
    told = ["--input-bits", "3", "--calibrate", str(samples)]
    assert main(["lower", str(path), "--out", str(tmp_path / "p.onnx"), *told]) == 0
    assert "left to the client" in capsys.readouterr().out
    (port,) = load_program(tmp_path / "p.onnx").inputs
    assert (port.lo, port.hi, float(port.scale)) == (-4, 3, 0.5)
    assert main(["lower", str(path), "--out", str(tmp_path / "q.onnx"), *told[:2]]) == 2
    assert "--input-scale or --calibrate" in capsys.readouterr().err
