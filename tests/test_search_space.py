"""The declared space, its presets, and the front of what was measured in it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torusformer import ArtifactError, InputError
from torusformer.models import ModelConfig, preset_names
from torusformer.pipelines.front import Limits, Measured, pareto_front
from torusformer.pipelines.search_space import MODEL, OF_TOKENS, QUANT, Space
from torusformer.pipelines.settings import Settings
from torusformer.quantize import QuantConfig


def test_what_is_declared_exists() -> None:
    assert set(MODEL) <= set(ModelConfig.model_fields)
    assert set(QUANT) <= set(QuantConfig.model_fields)
    assert not set(MODEL) & set(QUANT)
    assert set(OF_TOKENS) <= set(ModelConfig.model_fields) | set(QuantConfig.model_fields)


CLASSIFIERS = [n for n in preset_names() if not ModelConfig.from_name(n).foretells]


@pytest.mark.parametrize("name", sorted(set(preset_names()) - set(CLASSIFIERS)))
def test_models_that_foretell_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} foretells tokens; give another --preset"):
        Space.around([Settings.from_name(name)])


def test_presets_read_the_same() -> None:
    with pytest.raises(InputError, match="some presets read features, some token ids"):
        Space.around([Settings.from_name(name) for name in ("tiny", "tiny-sentences")])


def test_fields_of_texts_are_searched_where_a_preset_says_them() -> None:
    preset = Settings.from_name("tiny-sentences")
    space = Space.around([preset])
    assert "token_bit_width" in space.choices
    assert not {"patch", "window_dim", "value_dim"} & set(space.choices)
    assert "relu" not in space.choices["attention"]  # it counts padding
    model = preset.model.replace(value_dim=6)
    wider = Space.around([dataclasses.replace(preset, model=model)])
    made = wider.settings({**wider.start(preset), "value_dim": 4, "token_bit_width": 3}, "it")
    assert (made.model.value_dim, made.quant.token_bit_width) == (4, 3)
    assert made.lengths == preset.lengths


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_preset_is_in_the_space_around_it(name: str) -> None:
    preset = Settings.from_name(name)
    space = Space.around([preset])
    start = space.start(preset)
    assert all(value in space.choices[field] for field, value in start.items())
    back = space.settings(start, name)
    assert back.quant == preset.quant
    assert back.model == preset.model.replace(head_dim=preset.model.score_dim)
    assert space.changes(start) == name


def test_several_presets_share_a_space() -> None:
    presets = [Settings.from_name(name) for name in ("tiny", "digits-softmax")]
    space = Space.around(presets)
    for preset in presets:
        assert space.settings(space.start(preset), preset.name).quant == preset.quant


def test_neighbours_stay_in_the_space() -> None:
    preset = Settings.from_name("digits-small")
    space = Space.around([preset])
    start, changed = space.start(preset), 0
    for seed in range(20):
        near = space.near(preset, np.random.default_rng(seed))
        assert all(value in space.choices[field] for field, value in near.items())
        changed += sum(near[field] != start[field] for field in start)
    assert 0.05 < changed / (20 * len(start)) < 0.25


def test_a_patch_changes_tokens_and_features() -> None:
    preset = Settings.from_name("digits-small")
    space = Space.around([preset], ["patch", "dim"])
    model = space.settings({"patch": "1x8", "dim": 24}, "it").model
    assert (model.patch, model.tokens, model.features, model.dim) == ((1, 8), 8, 8, 24)
    assert space.changes({"patch": "1x8", "dim": 32}) == "digits-small: patch 1x8"


def test_fields_are_known() -> None:
    with pytest.raises(InputError, match="no field 'colour' to search; known: patch, dim"):
        Space.around([Settings.from_name("tiny")], ["dim", "colour"])


def measured(*points: tuple[float, float]) -> list[Measured]:
    return [Measured(i, accuracy, seconds, 1, "") for i, (accuracy, seconds) in enumerate(points)]


def test_limits_choose_from_the_front() -> None:
    points = measured((0.90, 2.0), (0.97, 6.0), (0.96, 4.0), (0.95, 5.0), (0.90, 3.0))
    assert [c.number for c in pareto_front(points)] == [0, 2, 1]
    for limits, number in (
        (Limits(min_accuracy=0.95), 2),
        (Limits(max_seconds=5.0), 2),
        (Limits(max_seconds=3.0), 0),
        (Limits(), 1),
    ):
        best = limits.best(points)
        assert best is not None
        assert best.number == number
    assert Limits(min_accuracy=0.99).best(points) is None
    assert Limits(min_accuracy=0.97, max_seconds=5.0).best(points) is None


def test_nothing_dearer_than_what_is_good_enough_is_wanted() -> None:
    points = measured((0.97, 6.0), (0.90, 2.0))
    assert Limits(min_accuracy=0.96).most_seconds(points) == 6.0
    assert Limits(min_accuracy=0.99, max_seconds=9.0).most_seconds(points) == 9.0
    assert Limits(max_seconds=9.0).most_seconds(points) == 9.0
    assert Limits().most_seconds(points) == float("inf")


@pytest.mark.parametrize(
    ("part", "value", "word"),
    [
        ("model", None, "'model' is no object"),
        ("model", {"tokens": 4}, "give features for inputs of numbers"),
        ("model", {"features": 4, "num_classes": 2}, "setting 'tokens' is missing"),
        ("quant", {"colour": 3}, "colour"),
        ("quant", {"act_bit_width": "3"}, "act_bit_width is '3'"),
        ("training", {"qat_epochs": 1.5}, "qat_epochs is 1.5"),
        ("training", {"colour": 3}, "colour"),
        ("training", {"temperature": "hot"}, "temperature is 'hot'"),
    ],
)
def test_a_configuration_that_is_none(tmp_path: Path, part: str, value: Any, word: str) -> None:
    path = tmp_path / "it.json"
    settings = Settings.from_name("tiny")
    settings.save(path)
    assert Settings.load(path) == settings
    values = {**settings.to_dict(), part: value}
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="not a configuration") as caught:
        Settings.load(path)
    assert word in str(caught.value)
