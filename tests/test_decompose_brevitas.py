"""Transformers of Brevitas's own attention, as others write them, lower with samples."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from brevitas import nn as qnn
from brevitas.export import export_qonnx
from torch import nn

from torusformer.fhe_compile import load_program
from torusformer.pipelines.cli import main

QUANTIZERS = ("q_scaled", "k_transposed", "v", "attn_output_weights", "out_proj_input")
WEIGHTS = ("in_proj_weight", "out_proj_weight", "in_proj_input")


class Block(nn.Module):
    """Attention and an MLP, each with a residual sum and a norm, then a mean and a head."""

    def __init__(self, dim: int, heads: int, tokens: int, how: str) -> None:
        super().__init__()
        self.first, self.masked = "seq" not in how, "causal" in how
        self.pre = "pre" in how
        bits = {f"{name}_bit_width": 3 for name in (*QUANTIZERS, *WEIGHTS)}
        self.input_quant = qnn.QuantIdentity(bit_width=3)
        self.attention = qnn.QuantMultiheadAttention(
            dim,
            heads,
            packed_in_proj="unpacked" not in how,
            batch_first=self.first,
            in_proj_bias_quant=None,
            out_proj_bias_quant=None,
            **bits,
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.up = qnn.QuantLinear(dim, dim, bias=True, weight_bit_width=3)
        self.quants = nn.ModuleList(qnn.QuantIdentity(bit_width=3) for _ in range(2))
        self.act = qnn.QuantReLU(bit_width=3)
        self.down = qnn.QuantLinear(dim, dim, bias=True, weight_bit_width=3)
        self.head = qnn.QuantLinear(dim, 3, bias=True, weight_bit_width=3)
        self.mask = torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), 1)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.first else x.transpose(0, 1)
        mask = self.mask if self.masked else None
        found = self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]
        return found if self.first else found.transpose(0, 1)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(self.quants[0](x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_quant(x)
        if self.pre:
            x = x + self.attend(self.norms[0](x))
            x = x + self.mlp(self.norms[1](x))
        else:
            x = self.norms[0](x + self.attend(x))
            x = self.norms[1](x + self.mlp(x))
        return self.head(self.quants[1](x.mean(1)))


def exported(path: Path, dim: int, heads: int, tokens: int, how: str) -> np.ndarray:
    """Write the graph of a block whose quantizers have seen samples; the samples."""
    torch.manual_seed(0)
    block = Block(dim, heads, tokens, how)
    x = torch.randn(48, tokens, dim)
    for _ in range(3):
        block(x)
    block.eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        export_qonnx(block, x[:1], str(path), opset_version=16)
    return x.numpy()


@pytest.mark.parametrize("how", ["", "seq unpacked", "causal pre"])
def test_a_block_of_brevitas_lowers_and_agrees(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, program = tmp_path / "m.qonnx.onnx", tmp_path / "p.onnx"
    x = exported(graph, dim=8, heads=2, tokens=4, how=how)
    np.savez(tmp_path / "s.npz", x=x)
    argv = ["lower", str(graph), "--out", str(program)]
    assert main(argv) == 2
    assert "--calibrate" in capsys.readouterr().err
    assert not program.exists()
    argv += ["--calibrate", str(tmp_path / "s.npz"), "--softmax-bits", "7", "--norm-bits", "8"]
    assert main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    kinds = [step["kind"] for step in said["decomposed"]]
    assert kinds.count("layer norm") == 2
    assert kinds.count("softmax") == 1
    assert {step["bits"] for step in said["decomposed"] if step["kind"] == "softmax"} == {7}
    assert said["fidelity"]["samples"] == 48
    # Weights are random, answers next to each other: how far they move says more than which wins.
    assert said["fidelity"]["largest_difference"] < 0.4 * said["fidelity"]["span"]
    assert json.loads(load_program(program).metadata["decomposed"]) == said["decomposed"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "/attention/Softmax" in text
    assert "same class" in text


def test_calibrate_that_is_not_there_or_holds_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = tmp_path / "m.qonnx.onnx"
    exported(graph, dim=4, heads=1, tokens=2, how="")
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 7)))
    for name, cause in (("none.npz", "no such file"), ("s.npz", "have shape")):
        argv = ["lower", str(graph), "--out", str(tmp_path / "p.onnx")]
        assert main([*argv, "--calibrate", str(tmp_path / name)]) == 2
        assert cause in capsys.readouterr().err
