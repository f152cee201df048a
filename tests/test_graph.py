"""The graph of a float model, and its rewrites: the same function, in fewer tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest
import torch

from tests.twins import (
    FEATURES,
    SMALL,
    TEXT,
    TOKENS,
    Fragment,
    brief,
    float_model,
    pairwise,
    samples,
)
from torusformer import InputError
from torusformer.models import ModelConfig, Transformer, preset_names
from torusformer.models.config import Activation, AttentionKind, Norm, Pooling, Positions
from torusformer.quantize import QuantConfig, to_qat
from torusformer.quantize.fold import (
    REWRITES,
    foldable,
    folded,
    fuse_affine,
    read_tokens_directly,
)
from torusformer.quantize.graph import (
    Affine,
    Code,
    Graph,
    Head,
    Normalize,
    Residual,
    graph_of,
)
from torusformer.quantize.interpreter import interpret

# fmt: off
AXES = [
    [SMALL],
    [FEATURES, {**FEATURES, "causal": True}, {**FEATURES, "skip": True, "input_scale": 4.0},
     TOKENS, {**TOKENS, "padding": 0}, {**TOKENS, "causal": True, "padding": 0},
     TEXT, {**TEXT, "tied": True}, {**TEXT, "padding": 0},
     {**TOKENS, "num_classes": None, "hidden": True},
     {**TOKENS, "num_classes": None, "hidden": True, "padding": 0},
     {**FEATURES, "num_classes": None, "hidden": True}],
    *([{name: v} for v in values] for name, values in {
        "norm": get_args(Norm),
        "attention": get_args(AttentionKind),
        "activation": get_args(Activation),
        "positions": get_args(Positions),
        "pooling": (None, *get_args(Pooling)),
        "post_norm": (False, True),
        "gated": (False, True),
        "layers": (1, 2),
    }.items()),
    [{}, {"pooler": "tanh"}, {"embed_norm": True}, {"norm_epsilon": 0.1}],
    [{}, {"kv_heads": 1}, {"distance_bias": True}, {"value_dim": 3}],
]
# fmt: on
SHAPES = pairwise(AXES)
PRESETS = [ModelConfig.from_name(name).to_dict() for name in preset_names()]
by_shape = pytest.mark.parametrize(
    "settings", SHAPES + PRESETS, ids=[*map(brief, SHAPES), *preset_names()]
)


def made(settings: Fragment) -> tuple[Transformer, torch.Tensor]:
    model = float_model(ModelConfig.from_dict(settings))
    return model, samples(model.config, 8, seed=99)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def is_affine(config: ModelConfig) -> bool:
    """Whether nothing is measured: neither the stream by norms nor the number of tokens."""
    counted = config.padding is not None and config.pooling in (None, "mean")
    return config.norm in ("batch", "none") and (config.positionwise or not counted)


@by_shape
@torch.no_grad()
def test_graph_and_every_rewrite_compute_what_the_model_does(settings: Fragment) -> None:
    model, x = made(settings)
    graph, expected = graph_of(model), model(x)
    torch.testing.assert_close(interpret(graph, x), expected, rtol=1e-4, atol=1e-4)
    direct = read_tokens_directly(graph)
    assert same(interpret(direct, x), expected)
    rewrites = {name: rewrite(direct) for name, rewrite in REWRITES.items()}
    for rewritten in rewrites.values():
        assert rewritten is None or same(interpret(rewritten, x), expected)
    config = model.config
    mean = config.norm == "layer" and not (config.post_norm or config.embed_norm)
    assert (rewrites["mean"] is not None) == mean
    assert (rewrites["affine"] is not None) == is_affine(config)


@by_shape
@torch.no_grad()
def test_no_pattern_is_left_behind_its_rewrite(settings: Fragment) -> None:
    model, x = made(settings)
    graph = read_tokens_directly(graph_of(model))
    known = graph.of_tokens()
    assert not [
        op.name for op in graph.ops for source in op.sources
        if isinstance(op, Affine | Normalize) and not isinstance(op, Head)
        and isinstance(graph[source], Code) and graph[source].sources[0] in known
    ]  # fmt: skip
    if (centred := REWRITES["mean"](graph)) is not None:
        norms = [op for op in centred.ops if isinstance(op, Normalize)]
        assert {norm.kind for norm in norms} == {"rms"}
        for norm in norms:
            stream = interpret(until(centred, norm.sources[0]), x)
            assert float(stream.mean(-1).abs().max()) < 1e-5
    if (fused := REWRITES["affine"](graph)) is not None:
        assert not [op for op in fused.ops if isinstance(op, Normalize | Residual)]
        roles = {op.role for op in fused.ops if isinstance(op, Code)}
        assert not roles & {"stream", "branch", "restart"}
        read = {source for op in fused.ops for source in op.sources}
        assert {op.name for op in fused.ops[:-1]} <= read  # nothing is made for nobody
    assert foldable(model.config) == tuple(n for n, r in REWRITES.items() if r(graph) is not None)


def until(graph: Graph, name: str) -> Graph:
    """The graph that gives a value within."""
    names = [op.name for op in graph.ops]
    return replace(graph, ops=graph.ops[: names.index(name) + 1])


def folded_preset(name: str) -> Graph:
    model = Transformer(ModelConfig.from_name(name)).eval()
    return folded(graph_of(model), QuantConfig.from_name(name).unfolded)


def kinds(graph: Graph) -> Counter[str]:
    return Counter(type(op).__name__ for op in graph.ops)


def test_one_block_of_a_batch_norm_and_a_learned_query_is_four_maps_and_a_head() -> None:
    graph = folded_preset("digits-fast")
    assert kinds(graph) == {
        "Features": 1, "Affine": 4, "Code": 2, "Attend": 1, "Activate": 1, "Pool": 3, "OneToken": 1,
        "Head": 1,
    }  # fmt: skip
    assert {op.name for op in graph.ops if isinstance(op, Affine)} == {
        "embed", "blocks.0.score", "blocks.0.value", "blocks.0.up", "head"
    }  # fmt: skip
    assert graph["head"].sources == (
        "blocks.0.attention_pool", "input_row_pool", "blocks.0.activation_quant_pool"
    )  # fmt: skip


def test_one_block_without_norms_writes_from_two_tables() -> None:
    """What the token alone gives, what heads find, and hidden units; nothing else is looked up."""
    graph = folded_preset("words")
    assert [op.name for op in graph.ops if isinstance(op, Code)] == ["blocks.0.activation_quant"]
    assert set(graph["head"].sources) == {
        "embed", "blocks.0.attention", "blocks.0.activation_quant"
    }  # fmt: skip
    assert {"blocks.0.query", "blocks.0.key", "blocks.0.value"} <= graph.of_tokens()


def test_what_is_folded_by_preset() -> None:
    expected = dict.fromkeys(("tiny", "tiny-signs", "tiny-words", "words", "usps"), "affine")
    expected |= dict.fromkeys(("tiny-sentences", "sentiment", "sentiment-fast"), "affine")
    expected |= dict.fromkeys(("tiny-gpt2", "words-gpt2"), "mean")
    digits = dict.fromkeys(("fast", "small", "standard"), "affine")
    digits |= dict.fromkeys(("softmax", "table"), "mean")
    expected |= {f"digits-{name}": rewrite for name, rewrite in digits.items()}
    for name in preset_names():
        wanted = (expected[name],) if name in expected else ()
        assert foldable(ModelConfig.from_name(name)) == wanted, name
        unfolded = QuantConfig.from_name(name).unfolded
        assert unfolded == (wanted if name == "tiny" else ()), name
        left = {type(op) for op in folded_preset(name).ops}
        assert (Residual in left) == (wanted != ("affine",) or bool(unfolded)), name


def test_foldable_draws_nothing() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    foldable(ModelConfig.from_name("tiny"))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("norm", "name"), [("layer", "mean"), ("batch", "affine")])
def test_a_rewrite_can_be_left_out_where_it_would_do_something(norm: str, name: str) -> None:
    model = float_model(ModelConfig.from_dict({**FEATURES, **SMALL, "norm": norm}))
    graph = read_tokens_directly(graph_of(model))
    kept = folded(graph, (name,))  # type: ignore[arg-type]
    assert [op.name for op in kept.ops] == [op.name for op in graph.ops]
    assert {op.kind for op in kept.ops if isinstance(op, Normalize)} == {norm}
    (other,) = REWRITES.keys() - {name}
    with pytest.raises(InputError, match=f"unfolded names '{other}'.*leave it out"):
        to_qat(model, QuantConfig(unfolded=(other,)))


def test_a_mean_of_an_encrypted_number_of_tokens_stays() -> None:
    config = ModelConfig.from_dict({**TOKENS, **SMALL, "norm": "none", "padding": 0})
    assert fuse_affine(graph_of(Transformer(config))) is None
    assert fuse_affine(graph_of(Transformer(config.replace(pooling="first")))) is not None
