from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from torusformer.models import Transformer, TransformerConfig
from torusformer.models.attention import Attention
from torusformer.models.norms import BatchNorm, LayerNorm, RMSNorm

NORMS = ("layer", "rms", "batch")


def test_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2, 4), nn.MultiheadAttention(8, 2, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([p.weight.data for p in parts])
    theirs.in_proj_bias.data = torch.cat([p.bias.data for p in parts])
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = (
        ours.out.weight.data,
        ours.out.bias.data,
    )
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_norms_equal_their_definitions() -> None:
    x = torch.randn(4, 3, 6)
    torch.testing.assert_close(LayerNorm(6)(x), nn.functional.layer_norm(x, (6,)))
    rms = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(RMSNorm(6)(x), rms)


def test_batch_norm_folds_into_an_affine_map() -> None:
    norm, x = BatchNorm(6), torch.randn(32, 3, 6) * 3 + 1
    norm(x)
    norm.eval()
    gain, shift = norm.folded()
    torch.testing.assert_close(norm(x), x * gain + shift)


@pytest.mark.parametrize(
    ("norm", "activation", "pooling"),
    list(itertools.product(NORMS, ("gelu", "relu"), ("mean", "first", "query"))),
)
def test_every_variant_trains_a_step(norm: str, activation: str, pooling: str) -> None:
    config = TransformerConfig.from_dict(
        {"tokens": 5, "features": 3, "num_classes": 4, "dim": 6, "layers": 2, "heads": 3,
         "head_dim": 5, "mlp_dim": 7, "norm": norm, "activation": activation, "pooling": pooling}
    )  # fmt: skip
    model = Transformer(config)
    loss = nn.functional.cross_entropy(model(torch.randn(8, 5, 3)), torch.arange(8) % 4)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert math.isfinite(float(loss))


def test_batch_rows_are_independent_in_inference() -> None:
    model = Transformer(TransformerConfig.from_name("tiny")).eval()
    x = torch.rand(6, *model.config.input_shape) * 16
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))
