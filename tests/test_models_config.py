from __future__ import annotations

import pytest
import torch

from torusformer import InputError
from torusformer.models import Transformer, TransformerConfig
from torusformer.models.config import PRESETS

BASE = {"tokens": 4, "features": 6, "num_classes": 3, "dim": 8, "heads": 2, "mlp_dim": 16}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_survive_json(name: str) -> None:
    config = TransformerConfig.from_name(name)
    assert TransformerConfig.from_dict(config.to_dict()) == config
    assert Transformer(config)(torch.zeros(2, *config.input_shape)).shape == (2, 10)


def test_standard_preset_is_a_whole_transformer() -> None:
    config = TransformerConfig.from_name("digits-standard")
    assert (config.tokens, config.features, config.layers, config.heads) == (8, 8, 2, 2)
    assert config.dim >= 32
    assert config.mlp_dim >= 2 * config.dim
    assert (config.activation, config.norm) == ("gelu", "layer")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"heads": 3}, "head_dim"),
        ({"dim": 0}, "dim"),
        ({"layers": True}, "layers"),
        ({"num_classes": 1}, "num_classes"),
        ({"norm": "group"}, "layer, rms, batch"),
        ({"pooling": "max"}, "mean, first"),
        ({"activation": "tanh"}, "gelu, relu"),
        ({"patch": (2, 2)}, "patch"),
        ({"input_scale": 0.0}, "input_scale"),
    ],
)
def test_refuses_with_a_cure(changes: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        TransformerConfig.from_dict({**BASE, **changes})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="digits-small"):
        TransformerConfig.from_name("digits-huge")
    with pytest.raises(InputError, match="depth"):
        TransformerConfig.from_dict({**BASE, "depth": 2})
    with pytest.raises(InputError, match="tokens"):
        TransformerConfig.from_dict({"features": 6, "num_classes": 3})
