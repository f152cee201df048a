"""What the families share: a checkpoint half read, its layers under our names out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from torusformer import ArtifactError
from torusformer.models.config import Activation, ModelConfig
from torusformer.models.foreign.fields import Fields
from torusformer.models.foreign.weights import Weights

Output = Literal["classes", "tokens", "hidden"]
# Names of activations in a foreign configuration.
ACTIVATION_NAMES: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Wishes:
    """What the user asks for beside what the checkpoint says.

    `tokens` is the longest input; `padding` gives tokens of the checkpoint's padding id no say;
    `hidden` leaves a head out, `pooling` is what is taken of hidden states, instead of all. Images
    are `raw_pixels` from 0 to 255 if what prepares them is to be part of the model.
    """

    tokens: int | None = None
    padding: bool = False
    hidden: bool = False
    pooling: Literal["mean", "first", "last"] | None = None
    raw_pixels: bool = False


@dataclass
class Reading:
    """A checkpoint as it is read: `state` fills up under our names, `folded` says what was done."""

    fields: Fields
    weights: Weights
    output: Output
    wishes: Wishes
    state: dict[str, Tensor] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)

    def linear(self, ours: str, theirs: str, out: int, into: int, *, bias: bool = True) -> None:
        """A layer; without a bias ours is zero."""
        self.state[f"{ours}.weight"] = self.weights.take(f"{theirs}.weight", out, into)
        added = self.weights.take(f"{theirs}.bias", out) if bias else torch.zeros(out)
        self.state[f"{ours}.bias"] = added

    def norm(self, ours: str, theirs: str, dim: int, *, bias: bool = True) -> None:
        """A norm; without a shift ours is zero."""
        self.state[f"{ours}.weight"] = self.weights.take(f"{theirs}.weight", dim)
        shift = self.weights.take(f"{theirs}.bias", dim) if bias else torch.zeros(dim)
        self.state[f"{ours}.bias"] = shift

    def positions(self, theirs: str, rows: int, dim: int, skipped: int = 0) -> int:
        """Learned positions, as many as wished; how many tokens that are."""
        count = self.tokens(rows - skipped)
        table = self.weights.take(theirs, rows, dim)
        self.state["positions"] = table[skipped : skipped + count].clone()
        return count

    def tokens(self, most: int) -> int:
        """The longest input: what was wished, if the checkpoint has so many positions."""
        count = self.wishes.tokens or most
        if count > most or most < 1:
            raise ArtifactError(
                f"{self.fields.path}: has {most} positions, --tokens asks for {count}; ask for"
                " fewer"
            )
        if count < most:
            self.folded.append(f"positions: the first {count} of {most} are kept")
        return count

    def outputs(self, default_pooling: str) -> dict[str, Any]:
        """The part of our configuration that says what comes out."""
        wished = self.wishes.pooling
        if self.output == "hidden":
            return {"hidden": True, "pooling": wished}
        if wished is not None:
            raise ArtifactError(
                f"{self.fields.path}: the checkpoint has a head, so --pooling is not yours to"
                " choose; leave it out, or say --hidden"
            )
        if self.output == "tokens":
            return {}
        return {"num_classes": self.classes, "pooling": default_pooling}

    @property
    def classes(self) -> int:
        """How many a classifier tells apart."""
        labels = self.fields.mapping("id2label")
        count = self.fields.optional_count("num_labels") or len(labels) or 2
        if count < 2:
            raise ArtifactError(
                f"{self.fields.path}: id2label names {count} class; a head of torusformer tells at"
                " least two apart, say --hidden to leave it out"
            )
        return count

    def padding(self, default: int | None) -> dict[str, Any]:
        """The part of our configuration that says which token is padding."""
        if not self.wishes.padding:
            return {}
        token = self.fields.optional_count("pad_token_id")
        token = default if token is None else token
        if token is None:
            raise ArtifactError(f"{self.fields.path}: pad_token_id is missing; leave out --padding")
        return {"padding": token}


@dataclass(frozen=True)
class Family:
    """How checkpoints of one model_type are read.

    `outputs` says what comes out, by what follows the `stem` in an architecture's name. `prefix`
    stands before all tensors of the trunk where there is a head, `anchor` is one of them. `heads`
    are the tensors of heads, left out of hidden models, `buffers` those that hold no weights.
    """

    stem: str
    outputs: Mapping[str, Output]
    prefix: str
    anchor: str
    heads: tuple[str, ...]
    buffers: tuple[str, ...]
    read: Callable[[Reading], ModelConfig]
