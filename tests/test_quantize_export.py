from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from tests.qonnx_graphs import Quant
from torusformer.models import Transformer, TransformerConfig, load_task
from torusformer.quantize import (
    QuantConfig,
    QuantTransformer,
    TrainConfig,
    calibrate,
    evaluate,
    export_qonnx,
    predict,
    to_qat,
    train,
)
from torusformer.quantize.convert import best_scale

NORMS = ("layer", "rms", "batch")
# fmt: off
OPERATORS = {
    "Quant", "Add", "Sub", "Mul", "Div", "MatMul", "Transpose", "Reshape", "Slice", "ReduceSum",
    "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Relu", "Constant", "Gemm",
}
# fmt: on


def calibrated(norm: str, activation: str, pooling: str, bits: QuantConfig) -> QuantTransformer:
    torch.manual_seed(0)
    config = TransformerConfig.from_dict(
        {"tokens": 3, "features": 4, "num_classes": 3, "dim": 8, "layers": 2, "heads": 2,
         "head_dim": 3, "mlp_dim": 6, "norm": norm, "activation": activation, "pooling": pooling}
    )  # fmt: skip
    model = Transformer(config)
    model(torch.rand(64, 3, 4))  # running statistics
    qat = to_qat(model.eval(), bits)
    calibrate(qat, torch.rand(64, 3, 4))
    return qat.eval()


@pytest.mark.parametrize(
    ("norm", "activation", "pooling"),
    [  # every pair of settings occurs
        (norm, ("gelu", "relu")[(i + j) % 2], pooling)
        for i, norm in enumerate(NORMS)
        for j, pooling in enumerate(("mean", "first", "query"))
    ],
)
def test_graph_computes_what_was_trained(
    tmp_path: Path, norm: str, activation: str, pooling: str
) -> None:
    qat = calibrated(norm, activation, pooling, QuantConfig())
    x = torch.rand(16, 3, 4)
    graph = export_qonnx(qat, x, tmp_path / "m.qonnx.onnx")
    assert {node.op_type for node in graph.graph.node} <= OPERATORS
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 4]
    runner = ReferenceEvaluator(onnx.load(tmp_path / "m.qonnx.onnx"), new_ops=[Quant])
    logits = np.concatenate([runner.run(None, {"x": row[None].numpy()})[0] for row in x])
    np.testing.assert_allclose(logits, predict(qat, x), atol=1e-4)


def test_roundings_are_one_node_each_with_a_scale_of_a_power_of_two(tmp_path: Path) -> None:
    qat = calibrated(
        "batch", "relu", "first", QuantConfig(sum_bit_width=8, accumulator_bit_width=4)
    )
    graph = export_qonnx(qat, torch.rand(1, 3, 4), tmp_path / "m.qonnx.onnx").graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    rounding = next(n for n in graph.node if n.op_type == "Quant" and "embed/rounding" in n.name)
    layer = qat.embed
    assert layer._proved is not None
    ratio = constants[rounding.input[1]] / layer._proved[0].numpy()
    assert np.unique(ratio).size == 1
    assert np.log2(ratio[0]) in (1, 2, 3, 4)
    assert rounding.domain == "onnx.brevitas"


def test_no_rounding_where_sums_are_narrow(tmp_path: Path) -> None:
    bits = QuantConfig(sum_bit_width=5, act_bit_width=2, input_bit_width=2)
    graph = export_qonnx(
        calibrated("batch", "relu", "first", bits), torch.rand(1, 3, 4), tmp_path / "m.onnx"
    ).graph
    names = [n.name for n in graph.node if n.op_type == "Quant" and "rounding" in n.name]
    linear = ("embed/", "query/", "key/", "value/", "out/", "up/", "down/")
    assert not [n for n in names if any(part in n for part in linear)]


def test_best_scale_finds_the_grid_it_was_made_of() -> None:
    codes = torch.randint(-4, 4, (500,)).float()
    scale = best_scale(codes * 0.3, -4, 3)
    assert torch.equal(torch.clamp(torch.round(codes * 0.3 / scale), -4, 3), codes)


def test_calibration_keeps_inputs_off_ties() -> None:
    task = load_task("digits", patch=(4, 4))
    torch.manual_seed(0)
    qat = to_qat(Transformer(TransformerConfig.from_name("tiny")), QuantConfig.from_name("tiny"))
    calibrate(qat, task.x_train)
    steps = task.x_test / float(torch.exp2(qat.input_quant.log_scale))
    assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-4


@pytest.mark.slow
def test_training_is_repeatable_and_learns() -> None:
    task = load_task("digits", patch=(4, 4))
    recipe = TrainConfig.from_name("tiny").replace(float_epochs=6, qat_epochs=4)
    runs = []
    for _ in range(2):
        torch.manual_seed(recipe.seed)
        model = Transformer(TransformerConfig.from_name("tiny"))
        train(model, task, recipe, progress=False)
        qat = to_qat(model, QuantConfig.from_name("tiny"))
        calibrate(qat, task.x_train)
        history = train(qat, task, recipe, teacher=model, progress=False)
        runs.append((history.losses, predict(qat, task.x_test[:20]).tolist()))
    assert runs[0] == runs[1]
    assert runs[0][0][-1] < runs[0][0][0]
    assert evaluate(model, task.x_test, task.y_test) > 0.5
