"""What `tune` may change: the declaration, and how a candidate of Optuna's becomes settings.

A `range` is searched in order, a tuple by name. The presets that a search starts from are always
part of it: a value of theirs that is not declared is added.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from torusformer import InputError
from torusformer.pipelines.settings import Settings
from torusformer.quantize.fold import foldable

Value = int | str
Values = range | tuple[Value, ...]
UNFOLDED = "unfolded"  # where its pattern does not stand in a model, nothing is left out

MODEL: dict[str, Values] = {
    "patch": ("4x4", "2x8", "1x8", "2x4"),  # rows x columns a token, where inputs are images
    "dim": range(16, 57, 8),
    "layers": range(1, 3),
    "heads": (1, 2, 4),
    "head_dim": range(2, 9, 2),
    "mlp_dim": range(16, 97, 16),
    "activation": ("relu", "gelu"),
    "attention": ("softmax", "relu", "table"),
    "norm": ("batch", "layer"),
    "pooling": ("first", "mean", "query"),
}
QUANT: dict[str, Values] = {
    "weight_bit_width": range(2, 4),
    "act_bit_width": range(2, 4),
    "accumulator_bit_width": range(4, 6),
    "stream_accumulator_bit_width": range(4, 6),
    "sum_bit_width": range(4, 9),
    "statistic_bit_width": range(4, 7),
    "input_bit_width": range(2, 5),
    "residual_bit_width": range(2, 5),
    "branch_bit_width": range(2, 4),
    "score_bit_width": range(2, 4),
    "value_bit_width": range(2, 4),
    "softmax_bit_width": range(3, 5),
    "exp_bit_width": range(3, 7),
    "attention_bit_width": range(2, 4),
    "norm_bit_width": range(2, 4),
    "head_weight_bit_width": range(2, 5),
    "head_sum_bit_width": range(5, 11),
    UNFOLDED: ("", "mean", "affine"),
}
# Only where every preset of a search says how many: of models of texts.
OF_TOKENS: dict[str, Values] = {
    "value_dim": range(2, 9, 2),
    "window_dim": range(16, 97, 16),
    "token_bit_width": range(2, 5),
}
NEAR = 0.25
_OF_MODEL = {*MODEL, "value_dim", "window_dim"}
PRESET = "preset"  # a field of its own where a search has several to start from


@dataclass(frozen=True)
class Space:
    """The presets to start from, and the values of every field that is searched."""

    presets: tuple[Settings, ...]
    choices: Mapping[str, Values]

    @classmethod
    def around(cls, presets: Sequence[Settings], fields: Sequence[str] | None = None) -> Space:
        """The declared space, or only these fields of it, with the presets inside."""
        declared = {**MODEL, **QUANT}
        if writes := [s.name for s in presets if s.model.foretells]:
            raise InputError(
                f"tune searches classifiers, and {writes[0]} foretells tokens; give another"
                " --preset"
            )
        if len({s.model.vocabulary is None for s in presets}) > 1:
            raise InputError("some presets read features, some token ids; give those of one kind")
        if presets[0].model.vocabulary is not None:
            declared |= {"attention": ("softmax", "table", "tanh"), **_said_by_all(presets)}
        if any(settings.model.patch is None for settings in presets):
            del declared["patch"]
        for name in fields or ():
            if name not in declared:
                raise InputError(f"no field {name!r} to search; known: {', '.join(declared)}")
        choices: dict[str, Values] = {}
        if len(presets) > 1:
            choices[PRESET] = tuple(settings.name for settings in presets)
        for name in fields or declared:
            choices[name] = declared[name]
            for settings in presets:
                choices[name] = _including(choices[name], _value(settings, name))
        return cls(tuple(presets), choices)

    def start(self, settings: Settings) -> dict[str, Value]:
        """The candidate that is this preset."""
        start = {name: _value(settings, name) for name in self.choices if name != PRESET}
        return {PRESET: settings.name, **start} if PRESET in self.choices else start

    def near(self, settings: Settings, rng: np.random.Generator) -> dict[str, Value]:
        """The candidate that is this preset with about a quarter of its fields drawn anew."""
        candidate = self.start(settings)
        for name, values in self.choices.items():
            if name != PRESET and rng.random() < NEAR:
                candidate[name] = values[int(rng.integers(len(values)))]
        return candidate

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Ask Optuna for a candidate."""
        chosen: dict[str, Value] = {}
        for name, values in self.choices.items():
            if isinstance(values, range):
                chosen[name] = trial.suggest_int(name, values[0], values[-1], step=values.step)
            else:
                value = trial.suggest_categorical(name, values)
                assert isinstance(value, int | str)
                chosen[name] = value
        return chosen

    def settings(self, candidate: Mapping[str, Value], name: str) -> Settings:
        """What to train; raises InputError where the fields do not go together."""
        base = self._base(candidate)
        model: dict[str, Any] = {k: v for k, v in candidate.items() if k in _OF_MODEL}
        if "patch" in model:
            rows, columns = (int(n) for n in model["patch"].split("x"))
            before = base.model.patch or (1, base.model.features or 1)
            channels = (base.model.features or 1) // math.prod(before)
            values, features = math.prod(base.model.input_shape), rows * columns * channels
            model |= {
                "patch": (rows, columns),
                "features": features,
                "tokens": values // features,
            }
        quant: dict[str, Any] = {
            k: v for k, v in candidate.items() if k != PRESET and k not in _OF_MODEL
        }
        shape = base.model.replace(**model)
        unfolded = str(quant.get(UNFOLDED, _value(base, UNFOLDED))).split("+")
        quant[UNFOLDED] = tuple(r for r in foldable(shape) if r in unfolded)
        return dataclasses.replace(base, name=name, model=shape, quant=base.quant.replace(**quant))

    def changes(self, candidate: Mapping[str, Value]) -> str:
        """How a candidate differs from its preset: "dim 24, act_bit_width 2"."""
        base = self._base(candidate)
        differ = [f"{k} {v}" for k, v in candidate.items() if k != PRESET and v != _value(base, k)]
        return f"{base.name}: {', '.join(differ)}" if differ else base.name

    def _base(self, candidate: Mapping[str, Value]) -> Settings:
        named = candidate.get(PRESET, self.presets[0].name)
        return next(settings for settings in self.presets if settings.name == named)


def _value(settings: Settings, name: str) -> Value:
    """A field of a preset, as the space writes it."""
    if name == "patch":
        rows, columns = settings.model.patch or (1, settings.model.features or 1)
        return f"{rows}x{columns}"
    if name == UNFOLDED:
        return "+".join(settings.quant.unfolded)
    if name == "head_dim":
        return settings.model.score_dim  # None stands for this
    value: Value = getattr(settings.model if name in _OF_MODEL else settings.quant, name)
    return value


def _said_by_all(presets: Sequence[Settings]) -> dict[str, Values]:
    """Of the fields of texts those that no preset leaves to others."""
    return {
        name: values
        for name, values in OF_TOKENS.items()
        if all(_value(settings, name) is not None for settings in presets)
    }


def _including(values: Values, value: Value) -> Values:
    """The values and this one.

    >>> list(_including(range(16, 41, 8), 12))
    [12, 16, 20, 24, 28, 32, 36, 40]
    """
    if value in values:
        return values
    if isinstance(values, tuple):
        return (*values, value)
    assert isinstance(value, int)
    step = math.gcd(values.step, abs(value - values.start))
    return range(min(value, values[0]), max(value, values[-1]) + 1, step)
