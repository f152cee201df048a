from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import nn

from tests.twins import FEATURES, SMALL, TEXT, TOKENS, Fragment, brief, pairwise, samples
from torusformer.models import ModelConfig, Transformer
from torusformer.models.activations import ACTIVATIONS
from torusformer.models.attention import CONTEXTS, Attention
from torusformer.models.config import Activation, AttentionKind, Norm, Positions
from torusformer.models.norms import NORMS, BatchNorm, LayerNorm, RMSNorm
from torusformer.models.positions import position_vectors, rotations


def test_attention_equals_torch() -> None:
    torch.manual_seed(0)
    config = ModelConfig(tokens=5, features=8, num_classes=2, dim=8, heads=2, head_dim=4)
    ours, theirs = Attention(config), nn.MultiheadAttention(8, 2, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([p.weight.data for p in parts])
    theirs.in_proj_bias.data = torch.cat([p.bias.data for p in parts])
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = (
        ours.out.weight.data,
        ours.out.bias.data,
    )
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
    keep = torch.ones(3, 5)
    keep[:, 3:] = 0
    padded = theirs(x, x, x, key_padding_mask=keep == 0)[0]
    torch.testing.assert_close(ours(x, keep=keep), padded)
    causal = Attention(config.replace(causal=True))
    causal.load_state_dict(ours.state_dict())
    later = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
    torch.testing.assert_close(causal(x), theirs(x, x, x, attn_mask=later)[0])


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


def test_registries_hold_what_a_configuration_can_name() -> None:
    for registry, names in (
        (CONTEXTS, AttentionKind), (NORMS, Norm), (ACTIVATIONS, Activation)
    ):  # fmt: skip
        assert set(registry) == set(get_args(names))


@pytest.mark.parametrize("positions", get_args(Positions))
def test_positions_tell_tokens_apart(positions: str) -> None:
    """Of two tokens in one order and in the other; without any, a mean does not see the order."""
    config = ModelConfig.from_dict({**TOKENS, **SMALL, "norm": "layer", "positions": positions})
    vectors, turns = position_vectors(config), rotations(config)
    assert (vectors is not None) == (positions in ("learned", "sinusoidal"))
    assert (turns is not None) == (positions == "rotary")
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        one, other = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))
    assert torch.allclose(one, other, atol=1e-6) == (positions == "none")


VARIANTS = pairwise([
    [{**SMALL, "layers": 2, "heads": 3, "head_dim": 6, "dim": 6, "mlp_dim": 7}],
    [FEATURES, TOKENS, {**TOKENS, "padding": 0}, TEXT],
    [{"norm": name} for name in NORMS],
    [{"attention": name} for name in CONTEXTS],
    [{"activation": name, "gated": gated} for name in ACTIVATIONS for gated in (False, True)],
    [{"positions": name} for name in get_args(Positions)],
    [{"pooling": name} for name in (None, "mean", "first", "query")],
])  # fmt: skip


@pytest.mark.parametrize("settings", VARIANTS, ids=brief)
def test_every_variant_trains_a_step(settings: Fragment) -> None:
    torch.manual_seed(0)
    config = ModelConfig.from_dict(settings)
    model = Transformer(config)
    logits = model(samples(config, 8)).reshape(-1, config.outputs)
    loss = nn.functional.cross_entropy(logits, torch.arange(len(logits)) % config.outputs)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert math.isfinite(float(loss))


def test_batch_rows_are_independent_in_inference() -> None:
    model = Transformer(ModelConfig.from_name("tiny")).eval()
    x = torch.rand(6, *model.config.input_shape) * 16
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))


@pytest.mark.parametrize("kind", CONTEXTS)
@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit(kind: str) -> None:
    config = ModelConfig.from_dict({**TEXT, **SMALL, "layers": 2, "attention": kind})
    torch.manual_seed(0)
    model = Transformer(config).eval()
    text = torch.randint(0, 5, (8, 3))
    other = text.clone()
    other[:, 2] = (other[:, 2] + 1) % 5
    assert torch.equal(model(other)[:, :2], model(text)[:, :2])
    assert not torch.equal(model(other)[:, 2], model(text)[:, 2])
