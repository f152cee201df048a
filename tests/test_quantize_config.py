from __future__ import annotations

import pytest

from torusformer import InputError
from torusformer.models.config import PRESETS as MODEL_PRESETS
from torusformer.quantize import QuantConfig, TrainConfig


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_every_model_preset_has_bits_and_a_recipe(name: str) -> None:
    config = QuantConfig.from_name(name)
    assert QuantConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_name(name).seed == 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"weight_bit_width": 1}, "weight_bit_width is 1"),
        ({"act_bit_width": 13}, "act_bit_width is 13"),
        ({"softmax_bit_width": 2.5}, "whole number"),
        ({"weight_quant": "ternary"}, "bounded, a2q"),
        ({"bits": 3}, "bits"),
    ],
)
def test_bad_widths(changes: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        QuantConfig.from_dict(changes)


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1}, {"qat_learning_rate": 0.0}, {"distillation": 2.0}]
)
def test_bad_recipes(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        TrainConfig().replace(**changes)


def test_unknown_presets() -> None:
    for kind in (QuantConfig, TrainConfig):
        with pytest.raises(InputError, match="digits-small"):
            kind.from_name("digits-huge")
