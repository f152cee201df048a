from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.twins import FEATURES, SMALL, TOKENS, twin_of
from torusformer import InputError
from torusformer.models import ModelConfig, Task, Transformer, preset_names
from torusformer.quantize import QuantConfig, QuantTransformer, TrainConfig, train


@pytest.mark.parametrize("name", preset_names())
def test_every_model_preset_has_bits_and_a_recipe(name: str) -> None:
    config = QuantConfig.from_name(name)
    assert QuantConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_name(name).seed == 0
    QuantTransformer(ModelConfig.from_name(name), config)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"weight_bit_width": 1}, "weight_bit_width is 1; give at least 2"),
        ({"act_bit_width": 13}, "act_bit_width is 13; give at most 12"),
        ({"softmax_bit_width": 2.5}, "softmax_bit_width is 2.5; give a whole number"),
        ({"act_narrow": "yes"}, "act_narrow is 'yes'; give true or false"),
        ({"weight_quant": "ternary"}, "choose one of bounded, a2q, a2q+"),
        ({"token_input": "bits"}, "choose one of one-hot, lookup"),
        ({"unfolded": ("query",)}, "choose one of mean, affine"),
        ({"bits": 3}, "unknown setting 'bits'; known: weight_bit_width"),
        ({"act_bit_width": 1, "act_narrow": True}, "leaves one level of act_bit_width 1"),
    ],
)
def test_bad_widths(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word.replace("+", r"\+")) as caught:
        QuantConfig.from_dict(changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"batch_size": 1}, "batch_size is 1; give at least 2"),
        ({"qat_learning_rate": 0.0}, "qat_learning_rate is 0.0; give more than 0"),
        ({"distillation": 2.0}, "distillation is 2.0; give at most 1"),
        ({"qat_epochs": 1.5}, "qat_epochs is 1.5; give a whole number"),
        ({"augment": -1.0}, "augment is -1.0; give at least 0"),
        ({"momentum": 0.9}, "unknown setting 'momentum'"),
    ],
)
def test_bad_recipes(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        TrainConfig().replace(**changes)


def test_unknown_presets() -> None:
    for kind in (QuantConfig, TrainConfig):
        with pytest.raises(InputError, match="digits-small"):
            kind.from_name("digits-huge")


@pytest.mark.parametrize("how", ["one-hot", "lookup"])
def test_how_tokens_are_sent_is_no_setting_of_features(how: str) -> None:
    bits = QuantConfig(token_input=how)
    QuantTransformer(ModelConfig.from_dict({**TOKENS, **SMALL}), bits)
    with pytest.raises(InputError, match=f"token_input is '{how}', but inputs are no token ids"):
        QuantTransformer(ModelConfig.from_dict({**FEATURES, **SMALL}), bits)


def task_of(shape: tuple[int, ...], patch: tuple[int, int] | None, ids: bool = False) -> Task:
    x = np.zeros((8, *shape), np.int64 if ids else np.float32)
    y, labels = np.arange(8) % 3, ("a", "b", "c")
    return Task("it", x, y, x, y, labels, "here", patch, ("p", "q", "r") if ids else None)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("model", "task", "shape"),
    [
        (TOKENS, task_of((3,), None, ids=True), r"\(3,\) without a patch"),
        (FEATURES, task_of((3, 4), None), r"\(3, 4\) without a patch"),
        (FEATURES, task_of((3, 4), (1, 4)), r"\(3, 4\); set augment to 0"),
    ],
)
def test_only_square_images_are_moved(
    quantized: bool, model: dict[str, Any], task: Task, shape: str
) -> None:
    config = ModelConfig.from_dict({**model, **SMALL})
    learner = twin_of(config) if quantized else Transformer(config)
    recipe = TrainConfig(float_epochs=1, qat_epochs=1, augment=0.5)
    with pytest.raises(InputError, match=f"augment is 0.5, which moves square images.*{shape}"):
        train(learner, task, recipe, progress=False)
    bends = recipe.replace(augment=0.0, elastic=0.5)
    shape = shape.replace("augment", "elastic")
    with pytest.raises(InputError, match=f"elastic is 0.5, which moves square images.*{shape}"):
        train(learner, task, bends, progress=False)
    assert len(train(learner, task, bends.replace(elastic=0.0), progress=False).losses) == 1
