from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from tests.qonnx_graphs import Quant
from tests.twins import (
    FEATURES,
    NARROW,
    SMALL,
    TEXT,
    TOKENS,
    Fragment,
    brief,
    logits_of,
    pairwise,
    program_of,
    samples,
    shape_of,
    twin_of,
)
from torusformer.fhe_compile import lower
from torusformer.models import ModelConfig, Transformer, load_task
from torusformer.models.activations import ACTIVATIONS
from torusformer.models.attention import CONTEXTS
from torusformer.models.config import Pooling, Positions
from torusformer.models.norms import NORMS
from torusformer.quantize import (
    QuantConfig,
    TrainConfig,
    calibrate,
    evaluate,
    export_qonnx,
    export_steps,
    predict,
    to_qat,
    train,
)
from torusformer.quantize.convert import best_scale
from torusformer.quantize.layers import RoundedLinear

# fmt: off
OPERATORS = {
    "Quant", "Add", "Sub", "Mul", "Div", "MatMul", "Transpose", "Reshape", "Slice", "ReduceSum",
    "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Relu", "Constant", "Gemm", "Concat",
}
# fmt: on


SHAPE = {
    **FEATURES, "dim": 8, "layers": 2, "heads": 2, "head_dim": 3, "mlp_dim": 6,
    "norm": "batch", "activation": "relu", "pooling": "first",
}  # fmt: skip
SHAPES = pairwise([
    [SHAPE],
    [{"norm": name} for name in ("layer", "rms", "batch")],
    [{"activation": name} for name in ("gelu", "relu")],
    [{"pooling": name} for name in ("mean", "first", "query")],
])  # fmt: skip


HEADLESS = {"num_classes": None, "hidden": True}
AS_IMPORTED: list[Fragment] = [
    {**TOKENS, "pooler": "tanh", "embed_norm": True, "post_norm": True, "norm_epsilon": 1e-3},
    {**FEATURES, "pooler": "gelu_tanh", "pooling": "row"},
    {**TOKENS, **HEADLESS, "activation": "gelu_tanh"},
    {**FEATURES, **HEADLESS, "activation": "quick_gelu", "pooling": "mean"},
    {**TOKENS, **HEADLESS, "norm": "none", "activation": "tanh"},
]


@pytest.mark.parametrize("shape", AS_IMPORTED, ids=brief)
def test_what_checkpoints_of_others_have_lowers(shape: Fragment) -> None:
    twin = twin_of(ModelConfig.from_dict({**SMALL, **shape}))
    x = samples(twin.model_config, 8, seed=1)
    np.testing.assert_allclose(logits_of(program_of(twin), x), predict(twin, x), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=brief)
def test_graph_computes_what_was_trained(tmp_path: Path, shape: Fragment) -> None:
    config = ModelConfig.from_dict(shape)
    twin, x = twin_of(config, QuantConfig()), samples(config, 16, seed=1)
    graph = export_qonnx(twin, x, tmp_path / "m.qonnx.onnx")
    assert {node.op_type for node in graph.graph.node} <= OPERATORS
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 4]
    runner = ReferenceEvaluator(onnx.load(tmp_path / "m.qonnx.onnx"), new_ops=[Quant])
    logits = np.concatenate([runner.run(None, {"x": row[None].numpy()})[0] for row in x])
    np.testing.assert_allclose(logits, predict(twin, x), atol=1e-4)


def test_roundings_are_one_node_each_with_a_scale_of_a_power_of_two(tmp_path: Path) -> None:
    bits = QuantConfig(sum_bit_width=8, accumulator_bit_width=4)
    twin = twin_of(ModelConfig.from_dict(SHAPE), bits)
    graph = export_qonnx(twin, torch.rand(1, 3, 4), tmp_path / "m.qonnx.onnx").graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    rounding = next(n for n in graph.node if n.op_type == "Quant" and "embed/rounding" in n.name)
    layer, source = twin.get_submodule("embed"), twin.get_submodule("input")
    assert isinstance(layer, RoundedLinear)
    with torch.no_grad():
        exact = layer.accumulate(source(torch.rand(1, 3, 4)))
    ratio = constants[rounding.input[1]] / exact.scale.numpy()
    assert np.ptp(ratio) < 1e-6 * ratio.max()
    assert round(float(np.log2(ratio[0])), 6) in (1, 2, 3, 4)
    assert rounding.domain == "onnx.brevitas"


def test_no_rounding_where_sums_are_narrow(tmp_path: Path) -> None:
    bits = QuantConfig(
        sum_bit_width=5, act_bit_width=2, input_bit_width=2
    )  # fmt: skip
    twin = twin_of(ModelConfig.from_dict(SHAPE), bits)
    graph = export_qonnx(twin, torch.rand(1, 3, 4), tmp_path / "m.onnx").graph
    names = [n.name for n in graph.node if n.op_type == "Quant" and "rounding" in n.name]
    linear = ("embed/", "query/", "key/", "value/", "out/", "up/", "down/")
    assert not [n for n in names if any(part in n for part in linear)]


@pytest.mark.parametrize("how", ["one-hot", "lookup"])
def test_a_graph_says_how_its_tokens_are_sent(how: str, tmp_path: Path) -> None:
    config = ModelConfig.from_dict({**TOKENS, **SMALL})
    twin = twin_of(config, NARROW.replace(token_input=how))
    graph = export_qonnx(twin, samples(config, 4), tmp_path / "m.onnx")
    assert {p.key: p.value for p in graph.metadata_props} == {"tokens": how}
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    (port,) = lower(tmp_path / "m.onnx").inputs
    assert port.one_hot == (how == "one-hot")


def test_steps_are_exported_one_after_the_other(tmp_path: Path) -> None:
    twin = twin_of(ModelConfig.from_dict({**TEXT, **SMALL}))
    steps = export_steps(twin, tmp_path)
    name, first = next(steps)
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.qonnx.onnx"] == ["step.0.qonnx.onnx"]
    assert first.graph.input[0].name == "token"
    names, graphs = zip(*steps, strict=True)
    assert names == ("step.1", "step.2")
    assert [i.name for i in graphs[1].graph.input[:5]] == [
        "token", "key.0.0", "key.0.1", "value.0.0", "value.0.1"
    ]  # fmt: skip
    assert [o.name for o in graphs[1].graph.output] == ["logits", "key.0.2", "value.0.2"]


@st.composite
def shapes(draw: st.DrawFn) -> ModelConfig:
    """Any small model that reads numbers or tokens and tells classes."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    tokens, heads, head_dim = pick(1, 2, 3), pick(1, 2), pick(2, 4)
    values = {
        "tokens": tokens, "num_classes": pick(2, 3), "causal": draw(st.booleans()),
        "dim": pick(2, 3, 4), "layers": pick(1, 2), "heads": heads, "head_dim": head_dim,
        "kv_heads": pick(None, 1), "value_dim": pick(None, 1, 3), "mlp_dim": pick(1, 3),
        "norm": pick(*NORMS), "post_norm": draw(st.booleans()), "attention": pick(*CONTEXTS),
        "activation": pick(*ACTIVATIONS), "gated": draw(st.booleans()),
        "positions": pick(*get_args(Positions)), "pooling": pick(None, *get_args(Pooling)),
        "distance_bias": draw(st.booleans()),
        **pick({"features": 2}, {"features": 3, "skip": True, "input_scale": 5.0},
               {"vocabulary": 4}, {"vocabulary": 4, "padding": 0}),
    }  # fmt: skip
    config = shape_of(values)
    assume(config is not None)
    assert config is not None
    return config


BITS = {
    "act_bit_width": (1, 2, 3), "accumulator_bit_width": (4, 5, 7), "sum_bit_width": (5, 8),
    "input_bit_width": (1, 2, 4), "residual_bit_width": (2, 4), "score_bit_width": (2, 3),
    "raw_sum_bit_width": (None, 5), "square_bit_width": (None, 2), "norm_bit_width": (2, 3),
    "softmax_bit_width": (3, 4), "exp_bit_width": (3, 6), "gains": (False, True),
}  # fmt: skip


@given(shapes(), st.fixed_dictionaries({k: st.sampled_from(v) for k, v in BITS.items()}))
@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
def test_any_model_is_lowered_to_what_it_computes(config: ModelConfig, bits: Fragment) -> None:
    twin = twin_of(config, QuantConfig(**bits))
    x = samples(config, 16, seed=3)
    expected = predict(twin, x)
    found = logits_of(program_of(twin), x)
    np.testing.assert_allclose(found, expected, atol=1e-3 * max(1.0, np.abs(expected).max()))


def test_best_scale_finds_the_grid_it_was_made_of() -> None:
    codes = torch.randint(-4, 4, (500,)).float()
    scale = best_scale(codes * 0.3, -4, 3)
    assert torch.equal(torch.clamp(torch.round(codes * 0.3 / scale), -4, 3), codes)


def test_calibration_keeps_inputs_off_ties() -> None:
    task = load_task("digits", patch=(4, 4))
    torch.manual_seed(0)
    qat = to_qat(Transformer(ModelConfig.from_name("tiny")), QuantConfig.from_name("tiny"))
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
        model = Transformer(ModelConfig.from_name("tiny"))
        train(model, task, recipe, progress=False)
        qat = to_qat(model, QuantConfig.from_name("tiny"))
        calibrate(qat, task.x_train)
        history = train(qat, task, recipe, teacher=model, progress=False)
        runs.append((history.losses, predict(qat, task.x_test[:20]).tolist()))
    assert runs[0] == runs[1]
    assert runs[0][0][-1] < runs[0][0][0]
    assert evaluate(model, task) > 0.5
