"""How the inputs of other people's models enter: declared, annotated, as the caller says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.foreign_checks import IMAGE, check, image
from tests.qonnx_graphs import GraphMaker
from torusformer import InputError, LoweringError
from torusformer.fhe_compile import lower


def headless(kind: int = TensorProto.FLOAT, annotation: str = "") -> onnx.ModelProto:
    """A model whose first operator is a linear layer."""
    g = GraphMaker((1, 4), kind)
    x = g.op("Cast", "x", to=TensorProto.FLOAT) if kind != TensorProto.FLOAT else "x"
    rng = np.random.default_rng(0)
    y = g.op("Gemm", x, g.const(rng.integers(-1, 2, (4, 3)) * 0.25), g.const([0.1, 0.2, 0.3]))
    model = g.model(g.quant(g.op("Relu", y), 0.71, 3, signed=False))
    if annotation:
        entry = onnx.StringStringEntryProto(key="finn_datatype", value=annotation)
        model.graph.quantization_annotation.append(
            onnx.TensorAnnotation(tensor_name="x", quant_parameter_tensor_names=[entry])
        )
    return model


@pytest.mark.parametrize("kind", [TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8])
def test_an_integer_input_enters_as_it_is(kind: int) -> None:
    check(headless(kind))


@pytest.mark.parametrize(
    "annotation", ["BIPOLAR", "BINARY", "TERNARY", "INT3", "UINT2", "FIXED<4,2>"]
)
def test_an_annotated_input_enters_as_it_is(annotation: str) -> None:
    check(headless(annotation=annotation))


def test_an_input_enters_as_the_caller_says() -> None:
    model = headless()
    with pytest.raises(LoweringError, match=r"net \(Gemm\).*before any quantizer.*--input-bits"):
        lower(model)
    program = check(model, input_bits=3, input_scale=0.5, input_signed=True)
    assert (program.inputs[0].lo, program.inputs[0].hi) == (-4, 3)
    samples = {"x": np.array([[0.0, 1.5, 0.3, 0.2]])}
    program = check(model, input_bits=2, calibrate=samples)
    assert (program.inputs[0].hi, float(program.inputs[0].scale)) == (3, 0.5)


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ({"input_bits": 3}, "--input-scale or --calibrate"),
        ({"input_scale": 0.5}, "give --input-bits"),
        ({"input_bits": 99, "input_scale": 0.5}, "from 1 to 16"),
        ({"input_bits": 3, "input_scale": -1.0}, "above 0"),
        ({"input_bits": 3, "calibrate": {"y": np.ones(3)}}, "none called 'x'"),
        ({"input_bits": 3, "calibrate": {"x": np.array([np.nan])}}, "no finite numbers"),
    ],
)
def test_what_is_said_of_an_input_has_to_make_sense(said: dict[str, Any], cure: str) -> None:
    with pytest.raises(InputError, match=cure):
        lower(headless(), **said)


def test_input_bits_of_a_model_that_quantizes_its_input_are_refused() -> None:
    g, x = image()
    with pytest.raises(InputError, match="quantizes its own"):
        lower(g.model(x), input_bits=3, input_scale=0.5)


def test_a_normalized_and_clipped_input_is_the_clients_work() -> None:
    g = GraphMaker(IMAGE)
    x = g.op("Div", g.op("Sub", "x", g.const([[[0.3]], [[0.1]]])), g.const([[[0.5]], [[0.7]]]))
    y = g.op("Transpose", g.quant(x, 0.43, 4), perm=[0, 2, 3, 1])
    program = check(g.model(y))
    assert program.inputs[0].scale.shape == (1, 2, 1, 1)
    g = GraphMaker(IMAGE)
    program = check(g.model(g.quant(g.op("Relu", "x"), 0.5, 3)))
    assert (program.inputs[0].lo, program.inputs[0].hi) == (0, 3)
