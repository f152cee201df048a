"""A foreign config.json alone in, the shape of our transformer out: no weights, no memory for any.

The readers of checkpoints run on tensors that have a shape and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from torusformer import ArtifactError, InputError
from torusformer.models.config import ModelConfig
from torusformer.models.foreign.convert import family_of, output_of
from torusformer.models.foreign.fields import CONFIG_FILE, Fields
from torusformer.models.foreign.reading import Output, Reading, Wishes
from torusformer.models.foreign.weights import Weights

LARGEST = 10_000_000  # of any count: a vocabulary, a width
MOST_LAYERS = 1_000
LAYERS = frozenset({"n_layer", "n_layers", "num_hidden_layers"})


@dataclass(frozen=True)
class Shape:
    """What a configuration says: our `model`, where it is from, and how many numbers it has.

    `unread` names fields that nothing of ours asks for; they may mean something.
    """

    name: str
    family: str
    output: Output
    model: ModelConfig
    parameters: int
    unread: tuple[str, ...]


def shipped_configs() -> tuple[str, ...]:
    """Names of the configurations that come with the package."""
    files = (resources.files("torusformer.models.foreign") / "configs").iterdir()
    return tuple(sorted(f.name.removesuffix(".json") for f in files if f.name.endswith(".json")))


def read_shape(config: str | Path, tokens: int | None = None, *, hidden: bool = False) -> Shape:
    """Of a shipped configuration by its name, a config.json, or a folder that has one.

    `tokens` is the longest input; by default all positions, of rotations at most 512.
    A `hidden` model is one without its head.

    Raises:
        InputError: there is no such file and no such name.
        ArtifactError: the family, a field or an activation is none that is known, or a number is
            beyond any model.
    """
    shipped = shipped_configs()
    if str(config) in shipped:
        file = resources.files("torusformer.models.foreign") / "configs" / f"{config}.json"
        with resources.as_file(file) as path:
            return _read(str(config), _BoundedFields(path), Wishes(tokens=tokens, hidden=hidden))
    path = Path(config)
    if path.is_dir():
        path = path / CONFIG_FILE
    if not path.is_file():
        raise InputError(
            f"{config} is neither a file nor a shipped configuration; those are"
            f" {', '.join(shipped)}"
        )
    return _read(str(config), _BoundedFields(path), Wishes(tokens=tokens, hidden=hidden))


def _read(name: str, fields: Fields, wishes: Wishes) -> Shape:
    kind, family = family_of(fields)
    weights = _NoWeights(fields.path)
    output: Output = "hidden" if wishes.hidden else output_of(fields, family)
    reading = Reading(fields, weights, output, wishes)
    with torch.device("meta"):  # what is filled up with zeros takes no memory either
        model = family.read(reading)
    return Shape(name, kind, output, model, weights.count, fields.unread())


class _BoundedFields(Fields):
    """Fields of a file that nobody has trained a model of: counts are believed up to a limit."""

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number from `least` up to what a model may have."""
        found = super().count(name, default, least=least)
        limit = MOST_LAYERS if name in LAYERS else LARGEST
        if found > limit:
            raise self.error(name, f"a whole number of at most {limit:,}")
        return found


class _NoWeights(Weights):
    """Every tensor that is asked for, at its shape, of no numbers; `count` is how many it had."""

    def __init__(self, path: Path) -> None:
        """`path` of the configuration, for errors."""
        self.path, self.count = path, 0

    def __contains__(self, name: str) -> bool:
        return False

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor on the device that holds none."""
        size = math.prod(shape)
        if size > LARGEST**2:
            raise ArtifactError(
                f"{self.path}: {name} would have {size:.1e} numbers; give the shape of a model"
            )
        self.count += size
        return torch.empty(shape, device="meta")
