"""Float functions between quantizers become tables: near the original, and exact from there on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from tests.qonnx_graphs import GraphMaker, Quant, float_outputs
from torusformer import InputError, LoweringError
from torusformer.fhe_compile import Program, compile_program, interpret, lower
from torusformer.fhe_compile.circuit.circuit import Mode
from torusformer.fhe_compile.frontend.decompose.fidelity import fidelity
from torusformer.fhe_compile.frontend.decompose.rewriter import Precision
from torusformer.fhe_compile.frontend.decompose.samples import sample_inputs
from torusformer.fhe_compile.frontend.decompose.walk import decompose
from torusformer.fhe_compile.program.onnx_io import to_onnx
from torusformer.fhe_compile.program.ports import dequantize_array, quantize_array

T, D = 4, 8
GENERAL = type("Quant", (Quant,), {"op_domain": "qonnx.custom_op.general"})
CAUSAL = np.triu(np.ones((T, T), bool), 1)


def samples(count: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, T, D)).astype(np.float32)


def weight(rows: int, columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, (rows, columns))


def check(
    model: onnx.ModelProto, precision: Precision | None = None, kinds: str = ""
) -> tuple[Program, float]:
    """Interpreter = ONNX Runtime = the rewritten graph in floating point; mean error to `model`."""
    x = samples()
    again, steps = decompose(
        model, sample_inputs(model.graph, x), "one-hot", precision or Precision()
    )
    assert kinds in {step.kind for step in steps} or not kinds
    program = lower(model, calibrate=x, precision=precision)
    session = ort.InferenceSession(to_onnx(program).SerializeToString())
    runner = ReferenceEvaluator(again, new_ops=[Quant, GENERAL])
    (port,), (out,) = program.inputs, program.outputs
    errors, spread = [], []
    for row in samples(20, seed=9):
        q_x = quantize_array(port, row[None])
        q_y = interpret(program, {port.name: q_x})[out.name]
        np.testing.assert_array_equal(session.run([out.name], {port.name: q_x})[0], q_y)
        found = dequantize_array(out, q_y)
        (rewritten,) = runner.run(None, {"x": row[None]})
        np.testing.assert_allclose(found, rewritten, rtol=1e-4, atol=1e-4)
        (exact,) = float_outputs(model, row[None])
        errors.append(np.abs(found - exact).mean())
        spread.append(exact)
    return program, float(np.mean(errors) / np.std(spread))


def scores(g: GraphMaker, scale: float = 0.5) -> str:
    """(1, T, T) of the input's tokens."""
    x = g.quant("x", 0.5)
    keys = g.op(
        "Transpose", g.quant(g.op("MatMul", x, g.weight(weight(D, D))), 1.0), perm=[0, 2, 1]
    )
    return g.op("Mul", g.op("MatMul", x, keys), g.const(scale))


def added(mask: float) -> Callable[[GraphMaker, str], str]:
    return lambda g, s: g.op("Add", s, g.const(np.where(CAUSAL, mask, 0)))


def chosen(g: GraphMaker, s: str) -> str:
    return g.op("Where", g.const(CAUSAL, bool), g.const(-np.inf), s)


def by_hand(g: GraphMaker, s: str) -> str:
    e = g.op("Exp", g.op("Sub", s, g.op("ReduceMax", s, axes=[-1], keepdims=1)))
    return g.op("Div", e, g.op("ReduceSum", e, g.const([-1], np.int64), keepdims=1))


@pytest.mark.parametrize("mask", [None, added(-np.inf), added(-1e9), chosen])
def test_a_softmax_under_any_mask(mask: Callable[[GraphMaker, str], str] | None) -> None:
    g = GraphMaker((1, T, D))
    s = scores(g) if mask is None else mask(g, scores(g))
    model = g.model(g.quant(g.op("Softmax", s, axis=-1), 1 / 15, 4, signed=False))
    program, error = check(model, kinds="softmax")
    assert error < 0.12
    if mask is not None:
        (port,) = program.inputs
        q_x = quantize_array(port, samples(1))
        q_y = interpret(program, {port.name: q_x})[program.outputs[0].name]
        assert not q_y[0][CAUSAL].any()  # what is masked weighs nothing at all


@pytest.mark.parametrize("axis", [1, -1])
def test_a_softmax_along_another_axis_or_by_hand(axis: int) -> None:
    g = GraphMaker((1, T, D))
    s = scores(g)
    weights = g.op("Softmax", s, axis=axis) if axis == 1 else by_hand(g, s)
    model = g.model(g.quant(weights, 1 / 15, 4, signed=False))
    assert check(model, kinds="softmax")[1] < 0.12


def test_more_bits_are_nearer() -> None:
    g = GraphMaker((1, T, D))
    model = g.model(g.quant(g.op("Softmax", scores(g), axis=-1), 1 / 63, 6, signed=False))
    errors = [check(model, Precision(softmax_bits=bits))[1] for bits in (3, 5, 7)]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


def layer_norm(g: GraphMaker, x: str) -> str:
    gain, bias = g.const(np.linspace(0.5, 2, D)), g.const(np.linspace(-1, 1, D))
    return g.op("LayerNormalization", x, gain, bias, axis=-1, epsilon=1e-5)


def exported_layer_norm(g: GraphMaker, x: str) -> str:
    def centred() -> str:  # twice, as some write it
        return g.op("Sub", x, g.op("ReduceMean", x, axes=[2], keepdims=1))

    square = g.op("Pow", centred(), g.const(2.0))
    variance = g.op("Add", g.op("ReduceMean", square, axes=[-1], keepdims=1), g.const(1e-5))
    return g.op("Div", centred(), g.op("Sqrt", variance))


def rms_norm(g: GraphMaker, x: str) -> str:
    square = g.op("ReduceMean", g.op("Mul", x, x), axes=[-1], keepdims=1)
    root = g.op("Reciprocal", g.op("Sqrt", g.op("Add", g.const(1e-6), square)))
    return g.op("Mul", g.const(np.linspace(0.5, 2, D)), g.op("Mul", root, x))


NORMS = {
    "layer norm": [layer_norm, exported_layer_norm],
    "RMS norm": [rms_norm],
}


@pytest.mark.parametrize(
    ("kind", "norm"), [(kind, norm) for kind, norms in NORMS.items() for norm in norms]
)
def test_a_norm_of_a_residual_sum(kind: str, norm: Callable[[GraphMaker, str], str]) -> None:
    g = GraphMaker((1, T, D))
    x = g.quant("x", 0.5, 4)
    found = g.op("MatMul", x, g.weight(weight(D, D), 0.2937))
    branch = g.op("Add", found, g.const(np.linspace(-1, 0.9, D)))  # no sum is at a tie
    model = g.model(g.quant(norm(g, g.op("Add", x, branch)), 0.25, 5))
    with pytest.raises(LoweringError, match="--calibrate"):
        lower(model)
    program, error = check(model, kinds=kind)
    assert error < 0.1
    assert "sum on one grid" in program.metadata["decomposed"]


def test_products_and_means_of_what_no_quantizer_holds() -> None:
    g = GraphMaker((1, T, D))
    x = g.quant("x", 0.5)
    left, right = (g.op("Tanh", g.op("MatMul", x, g.weight(weight(D, D, seed)))) for seed in (1, 2))
    product = g.op("MatMul", left, g.op("Transpose", right, perm=[0, 2, 1]))
    model = g.model(g.op("ReduceMean", g.op("Sigmoid", product), axes=[1], keepdims=0))
    with pytest.raises(LoweringError, match=r"no quantizer reads.*--calibrate"):
        lower(model)
    assert check(model, kinds="quantizer before MatMul")[1] < 0.12


def test_an_output_of_floats_gets_a_quantizer() -> None:
    g = GraphMaker((1, T, D))
    model = g.model(g.op("Gelu", g.op("MatMul", g.quant("x", 0.5), g.weight(weight(D, 3)))))
    model.opset_import[0].version = 20
    assert check(model, kinds="quantizer at the output")[1] < 0.05


def test_what_lower_reads_as_it_is_stays_so() -> None:
    g = GraphMaker((1, T, D))
    y = g.op("Relu", g.op("MatMul", g.quant("x", 0.5), g.weight(weight(D, D))))
    model = g.model(g.op("MatMul", g.quant(y, 1.0, signed=False), g.weight(weight(D, 3))))
    plain, calibrated = lower(model), lower(model, calibrate=samples())
    assert to_onnx(plain) == to_onnx(calibrated)
    near = fidelity(plain, model, samples())
    assert near.largest_difference < 1e-4
    assert near.same_class == 1


def test_fidelity_sees_a_difference() -> None:
    g = GraphMaker((1, T, D))
    model = g.model(g.quant(g.op("Softmax", scores(g), axis=-1), 1 / 15, 4, signed=False))
    coarse, fine = (
        fidelity(lower(model, calibrate=samples(), precision=Precision(bits)), model, samples())
        for bits in (3, 8)
    )
    assert coarse.same_class < fine.same_class <= 1
    assert coarse.largest_difference > fine.largest_difference


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((5, T, D + 1)), "have shape"),
        ({"y": np.zeros((5, T, D)), "z": np.zeros(5)}, "no array 'x'"),
        (np.full((5, T, D), np.nan), "not all numbers"),
        (np.zeros((0, T, D)), "have shape"),
    ],
)
def test_samples_that_do_not_fit(given: object, said: str) -> None:
    g = GraphMaker((1, T, D))
    model = g.model(g.quant(g.op("Softmax", scores(g), axis=-1), 1 / 15, 4, signed=False))
    with pytest.raises(InputError, match=said):
        lower(model, calibrate=given)  # type: ignore[arg-type]


def test_bits_without_samples_or_out_of_reach() -> None:
    g = GraphMaker((1, T, D))
    model = g.model(g.quant("x", 0.5))
    with pytest.raises(InputError, match="need samples"):
        lower(model, precision=Precision())
    with pytest.raises(InputError, match="softmax_bits is 2"):
        Precision(softmax_bits=2)


def test_a_row_that_sees_nothing_is_refused() -> None:
    g = GraphMaker((1, T, D))
    s = g.op("Add", scores(g), g.const(np.full((T, T), -np.inf)))
    model = g.model(g.quant(g.op("Softmax", s, axis=-1), 1 / 15, 4, signed=False))
    with pytest.raises(LoweringError, match="sees nothing"):
        lower(model, calibrate=samples())


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "fhe"),
    [
        ("softmax", "simulate"),
        pytest.param("softmax", "execute", marks=SLOW),
        pytest.param("layer norm", "simulate", marks=SLOW),
    ],
)
def test_the_circuit_gives_the_integers_of_the_program(kind: str, fhe: Mode) -> None:
    g = GraphMaker((1, 2, 2))
    x = g.quant("x", 0.7, 2 if kind == "softmax" else 3)
    if kind == "softmax":
        y = g.quant(g.op("Softmax", x, axis=-1), 1 / 3, 2, signed=False)
    else:
        y = g.quant(g.op("LayerNormalization", x, g.const([1, 2]), axis=-1), 0.5, 3)
    given = np.random.default_rng(0).normal(0, 1, (20, 2, 2))
    program = lower(g.model(y), calibrate=given, precision=Precision(3, 4, 3))
    assert kind in program.metadata["decomposed"]
    circuit = compile_program(program, simulate=fhe == "simulate")
    (port,), (out,) = program.inputs, program.outputs
    for row in given[: 20 if fhe == "simulate" else 2]:
        q_x = {port.name: quantize_array(port, row[None])}
        found = circuit.run(q_x, fhe=fhe)[out.name]
        np.testing.assert_array_equal(found, interpret(program, q_x)[out.name])
