"""A preset's name or a JSON file in, what to train out: shape, bit widths and recipe.

The file is what `tune` writes into `configs/`, and what `train --config` and `demo --config` read:

>>> {"name": "tiny-3", "model": {...}, "quant": {...}, "training": {...}}  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torusformer.pipelines.quiet_torch  # noqa: F401  before anything of quantize
from torusformer import ArtifactError, InputError
from torusformer.models import ModelConfig
from torusformer.models.presets import preset_lengths
from torusformer.quantize import QuantConfig, TrainConfig
from torusformer.strict_json import read_json

PARTS = ("name", "model", "quant", "training")
LENGTHS = "lengths"  # may be left out


@dataclass(frozen=True)
class Settings:
    """Everything of a training that is not data.

    `lengths` are those that a model of texts is compiled for, ascending, the last one the model's
    own; none means that one alone.
    """

    name: str
    model: ModelConfig
    quant: QuantConfig
    training: TrainConfig
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse lengths that are none of the model's."""
        lengths = self.lengths
        if lengths and (self.model.vocabulary is None or self.model.foretells):
            raise InputError("lengths are for token ids and classes; leave them out")
        if lengths and (lengths[0] < 1 or lengths[-1] != self.model.tokens):
            raise InputError(
                f"lengths end with {lengths[-1]}, tokens is {self.model.tokens}; make them equal"
            )
        if list(lengths) != sorted(set(lengths)):
            raise InputError(f"lengths are {list(lengths)}; name each once, the shortest first")

    @classmethod
    def from_name(cls, name: str) -> Settings:
        """A preset."""
        return cls(
            name,
            ModelConfig.from_name(name),
            QuantConfig.from_name(name),
            TrainConfig.from_name(name),
            preset_lengths(name),
        )

    def changed(
        self, *, seed: int | None = None, epochs: int | None = None, context: int | None = None
    ) -> Settings:
        """A copy with another seed, number of epochs or of tokens; None keeps what is there."""
        training, model, lengths = self.training, self.model, self.lengths
        if seed is not None:
            training = training.replace(seed=seed)
        if epochs is not None:
            training = training.replace(float_epochs=epochs, qat_epochs=epochs)
        if context is not None:
            if model.vocabulary is None:
                raise InputError(
                    f"--context is a number of token ids, and {self.name} reads features; leave it"
                    " out"
                )
            model = model.replace(tokens=context)
            if lengths:
                lengths = (*(length for length in lengths if length < context), context)
        return dataclasses.replace(self, training=training, model=model, lengths=lengths)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values: dict[str, Any] = {
            "name": self.name,
            "model": self.model.to_dict(),
            "quant": self.quant.to_dict(),
            "training": self.training.to_dict(),
        }
        return {**values, LENGTHS: list(self.lengths)} if self.lengths else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Inverse of `to_dict`; raises InputError that names what does not belong."""
        if missing := [part for part in PARTS if part not in values]:
            raise InputError(f"has no part {missing[0]!r}")
        if wrong := [part for part in PARTS[1:] if not isinstance(values[part], dict)]:
            raise InputError(f"{wrong[0]!r} is no object")
        lengths = values.get(LENGTHS, [])
        if not isinstance(lengths, list) or not all(type(n) is int for n in lengths):
            raise InputError(f"{LENGTHS!r} is no list of whole numbers")
        return cls(
            str(values["name"]),
            ModelConfig.from_dict(values["model"]),
            QuantConfig.from_dict(values["quant"]),
            TrainConfig.from_dict(values["training"]),
            tuple(lengths),
        )

    def save(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read the file."""
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; give one of a tuning's configs/")
        try:
            values = read_json(path)
            if not isinstance(values, dict):
                raise InputError("it is no JSON object")
            return cls.from_dict(values)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            # An InputError is a ValueError; objects in objects without end are a RecursionError.
            raise ArtifactError(
                f"{path}: is not a configuration to train ({error}); give one of a tuning's "
                f"configs/"
            ) from error
