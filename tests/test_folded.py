"""Maps in a row folded into one: nothing of the float model is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from torusformer.fhe_compile import compile_program, interpret, lower, plan
from torusformer.fhe_compile.program.ports import dequantize_array
from torusformer.models import Transformer, TransformerConfig
from torusformer.pipelines.values import to_integers
from torusformer.quantize import QuantConfig, calibrate, export_qonnx, predict, to_qat

ASKED = TransformerConfig(
    tokens=3, features=4, num_classes=3, dim=5, layers=1, heads=2, head_dim=2, mlp_dim=6,
    activation="relu", norm="batch", pooling="query",
)  # fmt: skip


def float_model(config: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    for _ in range(20):
        model(torch.randn(64, config.tokens, config.features) * 3)  # running statistics
    return model.eval()


@pytest.mark.parametrize("skip", [False, True])
@torch.no_grad()
def test_folded_maps_compute_what_the_float_model_does(skip: bool) -> None:
    model = float_model(ASKED.replace(skip=skip))
    folded = to_qat(model, QuantConfig()).folded
    assert folded is not None
    x = torch.randn(16, 3, 4)
    # The value layer reads a normed embedding, as it does quantized.
    seen = x @ folded.embed.linear.weight.T + folded.positions
    scores = seen @ folded.score.linear.weight.T
    values = (seen @ folded.value.linear.weight.T + folded.value.bias).unflatten(2, (2, 2))
    context = (torch.softmax(scores, 1).unsqueeze(3) * values).sum(1).flatten(1)
    hidden = torch.relu(context @ folded.up.linear.weight.T + folded.up.bias)
    read = [context, hidden, *([x.flatten(1)] if skip else [])]
    logits = torch.cat(read, 1) @ folded.head.linear.weight.T + folded.head.bias
    torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_layer_norms_mean_folds_into_what_writes_the_stream() -> None:
    config = ASKED.replace(norm="layer", pooling="mean", layers=2, activation="gelu")
    model = float_model(config)
    x = torch.randn(16, 3, 4)
    expected = model(x)
    qat = to_qat(model, QuantConfig(fold_mean=True))
    model.embed.weight.copy_(qat.embed.linear.weight)
    model.embed.bias.copy_(qat.embed.bias)
    model.positions.copy_(qat.positions)
    for block, quantized in zip(model.blocks, qat.blocks, strict=True):
        for layer, source in (
            (block.attention.out, quantized.attention.out),
            (block.down, quantized.down),
        ):
            layer.weight.copy_(source.linear.weight)
            layer.bias.copy_(source.bias)
    streams: list[torch.Tensor] = []
    for block in model.blocks:
        block.norm1.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert max(float(stream.mean(-1).abs().max()) for stream in streams) < 1e-5


def test_a_skip_costs_no_bootstrap_and_decrypts_exactly(tmp_path: Path) -> None:
    programs = []
    for skip in (False, True):
        qat = to_qat(float_model(ASKED.replace(skip=skip)), QuantConfig.from_name("digits-fast"))
        calibrate(qat, torch.randn(64, 3, 4).abs())
        export_qonnx(qat.eval(), torch.rand(1, 3, 4), tmp_path / "m.qonnx.onnx")
        programs.append(lower(tmp_path / "m.qonnx.onnx"))
    (port,), (logits,) = programs[1].inputs, programs[1].outputs
    x = np.random.default_rng(0).uniform(0, 3, (16, 3, 4)).astype(np.float32)
    q_x = to_integers(port, x)
    values = [interpret(programs[1], {port.name: q}) for q in q_x]
    found = np.concatenate([dequantize_array(logits, v[logits.name]) for v in values])
    np.testing.assert_allclose(found, predict(qat, x), atol=1e-5)
    assert plan(programs[1]).max_bit_width <= 5
    circuit = compile_program(programs[1])
    circuit.keygen()
    answer = circuit.run({port.name: q_x[0]}, fhe="execute")
    assert np.array_equal(answer[logits.name], values[0][logits.name])
    without = {node.name: node for node in programs[0].nodes}
    tables = [node for node in programs[1].nodes if node.op == "Table"]
    assert len(tables) == sum(node.op == "Table" for node in without.values())


@pytest.mark.parametrize("bits", [QuantConfig(), QuantConfig.from_name("digits-standard")])
def test_a_skip_around_any_blocks(bits: QuantConfig, tmp_path: Path) -> None:
    config = ASKED.replace(skip=True, pooling="mean", norm="layer", layers=2)
    model = float_model(config)
    qat = to_qat(model, bits)
    x = torch.randn(16, 3, 4).abs()
    with torch.no_grad():  # the linear part of the logits is that of the float model
        embedded = model.embed(x) + model.positions
        linear = qat.head.linear.weight[:, config.dim :].unflatten(1, (-1, bits.input_codes))
        skipped = x.flatten(1) @ linear.mean(2).T + qat.head.bias - model.head.bias
        torch.testing.assert_close(skipped, model.skip(embedded.flatten(1)), rtol=1e-4, atol=1e-4)
    calibrate(qat, x)
    export_qonnx(qat.eval(), x[:1], tmp_path / "m.qonnx.onnx")
    program = lower(tmp_path / "m.qonnx.onnx")
    (port,), (logits,) = program.inputs, program.outputs
    q_x = to_integers(port, x.numpy())
    values = [interpret(program, {port.name: q})[logits.name] for q in q_x]
    found = np.concatenate([dequantize_array(logits, value) for value in values])
    np.testing.assert_allclose(found, predict(qat, x), atol=1e-4)
