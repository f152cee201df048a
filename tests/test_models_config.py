from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from torusformer import InputError
from torusformer.models import ModelConfig, Transformer, preset_names
from torusformer.models.presets import preset
from torusformer.pipelines.settings import Settings
from torusformer.quantize import QuantConfig, TrainConfig

BASE = {"tokens": 4, "features": 6, "num_classes": 3, "dim": 8, "heads": 2, "mlp_dim": 16}
IDS = {k: v for k, v in BASE.items() if k != "features"} | {"vocabulary": 5}
TEXT = {k: v for k, v in IDS.items() if k != "num_classes"} | {"causal": True}


@pytest.mark.parametrize("name", preset_names())
def test_presets_build_and_survive_json(name: str) -> None:
    settings = Settings.from_name(name)
    for config in (settings.model, settings.quant, settings.training):
        again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
        assert hash(again) == hash(config)
    model = settings.model
    x = torch.zeros(2, *model.input_shape)
    logits = Transformer(model)(x if model.vocabulary is None else x.long())
    expected = (2, model.tokens, 27) if model.foretells else (2, model.num_classes)
    assert logits.shape == expected


@pytest.mark.parametrize("name", preset_names())
def test_presets_name_no_setting_of_another_part(name: str) -> None:
    kinds = {"model": ModelConfig, "quant": QuantConfig, "training": TrainConfig}
    for part, kind in kinds.items():
        values = preset(name, part)  # type: ignore[arg-type]
        assert set(values) <= set(kind.model_fields)


def test_standard_preset_is_a_whole_transformer() -> None:
    config = ModelConfig.from_name("digits-softmax")
    assert (config.tokens, config.features, config.layers, config.heads) == (8, 8, 2, 2)
    assert config.dim >= 32
    assert config.mlp_dim >= 2 * config.dim
    assert (config.activation, config.norm) == ("gelu", "layer")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"heads": 3}, r"dim 8 is not a multiple of heads 3; change one of them or set head_dim"),
        ({"dim": 0}, "dim is 0; give at least 1"),
        ({"layers": True}, "layers is True; give a whole number"),
        ({"layers": 1.5}, "layers is 1.5; give a whole number"),
        ({"tokens": "4"}, "tokens is '4'; give a whole number"),
        ({"causal": 1}, "causal is 1; give true or false"),
        ({"num_classes": 1}, "num_classes is 1; give at least 2"),
        ({"norm": "group"}, "norm is 'group'; choose one of layer, rms, batch, none"),
        ({"pooling": "max"}, "choose one of mean, sum, first, last, row, query"),
        ({"activation": "mish"}, "choose one of gelu, gelu_tanh, quick_gelu, relu"),
        (
            {"attention": "linear"},
            "choose one of softmax, relu, quad, sigmoid, tanh, inhibitor, table",
        ),
        ({"patch": (2, 2)}, r"patch \(2, 2\) holds 4 values but features is 6; make them equal"),
        ({"input_scale": 0.0}, "input_scale is 0.0; give more than 0"),
        ({"rotary_base": "10"}, "rotary_base is '10'; give a number"),
        ({"kv_heads": 3}, "heads 2 is not a multiple of kv_heads 3"),
        ({"positions": "rotary", "head_dim": 3}, "head_dim is 3; make it even"),
        ({"vocabulary": 5}, "give features for inputs of numbers, or vocabulary for token ids"),
        ({"features": None}, "give features for inputs of numbers, or vocabulary for token ids"),
    ],
)
def test_refuses_with_a_cure(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        ModelConfig.from_dict({**BASE, **changes})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=word):
        ModelConfig.from_dict(BASE).replace(**changes)


NO_PLACE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (IDS, {"input_scale": 2.0}, "input_scale is 2.0 and inputs are token ids; leave it out"),
    (IDS, {"patch": (2, 3)}, r"patch is \(2, 3\) and inputs are token ids"),
    (IDS, {"skip": True}, "skip is True and a text has no fixed row"),
    (BASE, {"padding": 0}, "padding is 0 and inputs are no token ids; leave it out"),
    (IDS, {"num_classes": None}, "num_classes is missing; give it, or a causal model"),
    (BASE, {"num_classes": None, "causal": True}, "num_classes is missing; give it"),
    (TEXT, {"pooling": "last"}, "pooling is 'last' and the next token is foretold at every"),
    (IDS, {"tied": True}, "tied is True and only logits of the next token can be read off"),
    (IDS, {"window": 3}, "window is 3 and only a decoder whose MLP has no gate reads neighbours"),
    (BASE, {"groups": 2}, "groups is 2 and attention is softmax; .* choose attention table"),
    (BASE, {"rotary_base": 10.0}, "rotary_base is 10.0 and positions are learned; .* rotary"),
    (BASE, {"distance_bias": True, "attention": "table"}, "attention table adds none; leave it"),
    (BASE, {"positions": "rotary", "attention": "inhibitor"}, "choose learned positions"),
    (BASE, {"pooling": "query", "attention": "table"}, "choose pooling mean or first"),
    (BASE, {"pooling": "query", "positions": "rotary"}, "a learned query has no position to turn"),
    (BASE, {"pooling": "query", "causal": True}, "a learned query sees all tokens, .* last"),
    (IDS, {"pooling": "last", "padding": 0}, "padding may fill the last token"),
    (IDS, {"pooling": "query", "padding": 0}, "weighs nothing for a learned query only in one"),
    (IDS, {"pooling": "sum", "positions": "none"}, "what blocks find in padding would be summed"),
    (IDS, {"pooling": "sum", "layers": 0}, "padding has positions too"),
    (IDS, {"pooling": "first", "layers": 0}, "without blocks a token knows of itself alone"),
    (BASE, {"gated": True, "mlp_dim": 0}, "gated is True and there is no MLP"),
    (IDS, {"window_dim": 4}, "window_dim is 4 and only a classifier of token ids"),
    (BASE, {"pooling": "query", "distance_bias": True}, "no distance to tokens; leave out"),
    (BASE, {"pooling": "query", "attention": "sigmoid"}, "no distance to tokens, attention sigm"),
    (TEXT, {"pooler": "tanh"}, "pooler is 'tanh' and the output is that of every position"),
    (BASE, {"hidden": True}, "num_classes is 3 and a hidden model has no head; leave it out"),
    (BASE, {"embed_norm": True}, "embed_norm is True and inputs are no token ids"),
    (BASE, {"norm": "none", "norm_epsilon": 0.1}, "norm_epsilon is 0.1 and norm is none"),
    (BASE, {"kv_heads": 1, "attention": "inhibitor"}, "kv_heads is 1 and attention inhibitor has"),
]


@pytest.mark.parametrize(
    ("base", "changes", "word"), NO_PLACE, ids=["+".join(changes) for _, changes, _ in NO_PLACE]
)
def test_a_setting_that_would_be_ignored_is_refused(
    base: dict[str, Any], changes: dict[str, Any], word: str
) -> None:
    ModelConfig.from_dict(base)
    with pytest.raises(InputError, match=word):
        ModelConfig.from_dict({**base, **changes})


def test_every_restriction_is_tested() -> None:
    """One that is added later needs a case above: each is the first to refuse one of them."""
    refused = set()
    for base, changes, _ in NO_PLACE:
        values = {**base, **changes}
        rules = ModelConfig.model_construct(**values)._restrictions()
        first = next(
            i for i, (applies, names, _) in enumerate(rules)
            if not applies and any(values.get(n) is not None for n in names)
        )  # fmt: skip
        refused.add(first)
        with pytest.raises(InputError) as caught:
            ModelConfig.from_dict(values)
        assert str(caught.value).endswith(rules[first][2])
    assert refused == set(range(len(rules)))


def test_padding_is_one_of_the_tokens() -> None:
    assert ModelConfig.from_dict({**IDS, "padding": 4}).padding == 4
    with pytest.raises(InputError, match="padding is token 5 of a vocabulary of 5; name one of"):
        ModelConfig.from_dict({**IDS, "padding": 5})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"no preset named .digits-huge.*digits-small"):
        ModelConfig.from_name("digits-huge")
    with pytest.raises(InputError, match="unknown setting 'depth'; known: tokens, features"):
        ModelConfig.from_dict({**BASE, "depth": 2})
    with pytest.raises(InputError, match="setting 'tokens' is missing; give it"):
        ModelConfig.from_dict({"features": 6, "num_classes": 3})


def test_nothing_of_a_configuration_changes() -> None:
    config = ModelConfig.from_dict(BASE)
    with pytest.raises(ValueError, match="frozen"):
        config.dim = 4  # type: ignore[misc]
    assert config.replace(dim=16).dim == 16
    assert config.dim == 8
