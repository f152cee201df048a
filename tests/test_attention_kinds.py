"""Every kind of attention, from the float layer to ciphertexts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from torusformer import InputError
from torusformer.fhe_compile import interpret, lower, plan
from torusformer.fhe_compile.circuit.circuit import Module, compile_module
from torusformer.fhe_compile.program.nodes import Program
from torusformer.models import Transformer, TransformerConfig
from torusformer.models.attention import Attention, product_tables, table_scores
from torusformer.quantize import (
    QuantConfig,
    QuantTransformer,
    calibrate,
    export_qonnx,
    predict,
    to_qat,
)

KINDS = ("softmax", "relu", "quad", "inhibitor", "table")
# fmt: off
NARROW = QuantConfig(
    sum_bit_width=5, act_bit_width=2, act_narrow=True, input_bit_width=2, score_bit_width=2,
    value_bit_width=2, attention_bit_width=2, exp_bit_width=3, softmax_bit_width=3,
    statistic_bit_width=5, residual_bit_width=3, branch_bit_width=2, square_bit_width=2,
    raw_sum_bit_width=6, head_weight_bit_width=2, head_sum_bit_width=6, embed_sum_bit_width=4,
)
# fmt: on


def quantized(kind: str, pooling: str, tmp_path: Path) -> tuple[QuantTransformer, Program]:
    torch.manual_seed(0)
    config = TransformerConfig.from_dict(
        {"tokens": 3, "features": 4, "num_classes": 3, "dim": 4, "layers": 1, "heads": 2,
         "head_dim": 2, "mlp_dim": 4, "activation": "relu", "norm": "batch", "pooling": pooling,
         "attention": kind}
    )  # fmt: skip
    model = Transformer(config)
    model(torch.rand(64, 3, 4))  # running statistics
    qat = to_qat(model.eval(), NARROW)
    calibrate(qat, torch.rand(64, 3, 4))
    qat.eval()
    export_qonnx(qat, torch.rand(1, 3, 4), tmp_path / "m.qonnx.onnx")
    return qat, lower(tmp_path / "m.qonnx.onnx")


def reals(program: Program, x: np.ndarray) -> np.ndarray:
    (port,), (logits,) = program.inputs, program.outputs
    rows = []
    for row in x:
        q_x = np.rint(row[None] / port.scale + port.zero_point).clip(port.lo, port.hi)
        q_y = interpret(program, {port.name: q_x.astype(np.int64)})[logits.name]
        rows.append(logits.scale * (q_y - logits.zero_point))
    return np.concatenate(rows)


@pytest.mark.parametrize("pooling", ["mean", "first", "query"])
@pytest.mark.parametrize("kind", KINDS)
def test_program_computes_what_the_quantized_model_does(
    kind: str, pooling: str, tmp_path: Path
) -> None:
    if pooling == "query" and kind in ("inhibitor", "table"):
        with pytest.raises(InputError, match="choose pooling mean or first"):
            quantized(kind, pooling, tmp_path)
        return
    qat, program = quantized(kind, pooling, tmp_path)
    x = torch.rand(40, 3, 4)
    np.testing.assert_allclose(reals(program, x.numpy()), predict(qat, x), atol=1e-4)


ENCRYPTED = {"softmax": "query"} | {kind: "first" for kind in KINDS if kind != "softmax"}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    """A function a kind, all under the same keys: those take longer than the answers."""
    folder = tmp_path_factory.mktemp("kinds")
    return compile_module({k: quantized(k, p, folder)[1] for k, p in ENCRYPTED.items()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_decrypted_answer_is_that_of_the_program(kind: str, module: Module) -> None:
    circuit = module.function(kind)
    (port,) = circuit.program.inputs
    x = np.random.default_rng(0).integers(port.lo, port.hi + 1, port.shape)
    expected = circuit.run(x, fhe="disable")
    for way in ("simulate", "execute"):
        got = circuit.run(x, fhe=way)  # type: ignore[arg-type]
        assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_every_kind_learns_every_weight() -> None:
    for kind in KINDS:
        layer = Attention(6, 2, 3, kind)  # type: ignore[arg-type]
        layer(torch.randn(4, 5, 6)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
        assert layer.query.weight.grad.abs().sum() > 0, kind


def test_whole_codes_give_the_entries_of_the_tables() -> None:
    tables = torch.randn(1, 2, 4, 4)
    q, k = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 2.0]])
    score = table_scores(tables, q[None, None], k[None, None])
    assert float(score) == pytest.approx(float(tables[0, 0, 3, 1] + tables[0, 1, 0, 2]), abs=1e-6)


def test_tables_start_as_products() -> None:
    assert product_tables(1, 1)[0, 0, 0].tolist() == [1.125, 0.375, -0.375, -1.125]


def test_table_attention_needs_one_bootstrap_a_pair_and_group(tmp_path: Path) -> None:
    _, program = quantized("table", "mean", tmp_path)
    layers = plan(program).pbs_by_layer
    pairs = [n for name, n in layers.items() if name.endswith("attention.table_quant.quant")]
    assert pairs == [2 * 3 * 3 * 2]  # heads, queries, keys, groups


def test_gradients_of_codes_pass_through_their_rounding(tmp_path: Path) -> None:
    qat, _ = quantized("table", "mean", tmp_path)
    qat.train()
    loss = nn.functional.cross_entropy(qat(torch.rand(8, 3, 4)), torch.arange(8) % 3)
    loss.backward()
    attention = qat.blocks[0].attention
    assert attention.query.bias.grad.abs().sum() > 0
    assert attention.tables.grad.abs().sum() > 0
