"""What a model is trained on: samples with a fixed held-out part, a loss and a measure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from torusformer.models.config import ModelConfig
from torusformer.models.tokenizer import Tokenizer

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]
Measure = Literal["accuracy", "nats"]
Marks = tuple[tuple[int, ...], tuple[int, ...]]
UNKNOWN = -1  # as a target: there is no token to foretell
TOGETHER = 40  # batches that are sorted by length


@dataclass(frozen=True, eq=False)
class Task:
    """Training and held-out samples, in the data's own units.

    Samples are (N, tokens, features) numbers or (N, tokens) token ids; targets are classes (N,),
    or the token after each (N, tokens), `UNKNOWN` where a row ends. `labels[i]` names output i,
    `vocabulary[i]` token i where inputs are ids. `patch` tells how images were cut, `image` their
    rows and columns of pixels, where they are not known to be grey squares; `source` where the
    samples come from. `measure` is the share of right classes, or the mean negative
    log-likelihood a token, natural logarithm. `last` are samples and targets for a last test, of
    which neither training nor choosing knows anything. A `tokenizer` makes ids of texts; its
    padding fills up short samples; `origin` is the id of each of its pieces in the tokenizer of
    the checkpoint that they were taken from, and `marks` what it puts before and behind a text that
    it reads itself, in its own ids. `answers` (N, classes) are a teacher's logits for the
    training samples, of which some may have no label: `UNKNOWN`.
    """

    name: str
    x_train: NDArray[Any]
    y_train: LabelArray
    x_test: NDArray[Any]
    y_test: LabelArray
    labels: tuple[str, ...]
    source: str
    patch: tuple[int, int] | None = None
    vocabulary: tuple[str, ...] | None = None
    measure: Measure = "accuracy"
    last: tuple[LabelArray, LabelArray] | None = None
    image: tuple[int, int] | None = None
    tokenizer: Tokenizer | None = None
    origin: LabelArray | None = None
    marks: Marks = ((), ())
    answers: FloatArray | None = None

    @property
    def padding(self) -> int | None:
        """The id that fills up short samples, if one does."""
        return None if self.tokenizer is None else self.tokenizer.padding

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(tokens, features) or (tokens,) of one sample."""
        return tuple(int(n) for n in self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def input_scale(self) -> float:
        """Largest magnitude in the training samples."""
        return float(np.abs(self.x_train).max()) or 1.0

    @property
    def test_count(self) -> int:
        """Held-out targets: samples, or tokens to foretell."""
        return int((self.y_test != UNKNOWN).sum())

    def fitted(self, model: ModelConfig) -> ModelConfig:
        """A model's shape with the inputs and outputs of these samples."""
        if self.vocabulary is None:
            tokens, features = self.input_shape
            changes: dict[str, object] = {"input_scale": self.input_scale}
            cut_otherwise = self.image is not None and self.patch != model.patch
            if (tokens, features) != model.input_shape or cut_otherwise:
                changes |= {"tokens": tokens, "features": features, "patch": self.patch}
        else:
            changes = {"vocabulary": len(self.vocabulary), "tokens": self.input_shape[0]}
            if self.padding is not None:
                changes["padding"] = self.padding
        if self.measure == "accuracy":
            changes["num_classes"] = self.num_classes
        return model.replace(**changes)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """All training samples once, shuffled, about `size` at a time, with their targets.

        Texts of about the same length go together, and their padding is left out.
        """
        x, y = torch.from_numpy(self.x_train), torch.from_numpy(self.y_train)
        answers = None if self.answers is None else torch.from_numpy(self.answers)
        order = torch.randperm(len(x), generator=generator)
        parts = list(order.chunk(math.ceil(len(x) / size)))
        if self.padding is not None:
            parts = _alike(parts, (x != self.padding).sum(1), generator)
        for index in parts:
            batch, target = _trimmed(x[index], y[index])
            if self.padding is not None:
                batch = batch[:, : max(1, int((batch != self.padding).sum(1).max()))]
            yield Batch(batch, target, None if answers is None else answers[index])

    def batch_count(self, size: int) -> int:
        """How many `batches` gives."""
        count = math.ceil(len(self.x_train) / size)
        return len(torch.arange(len(self.x_train)).chunk(count))

    def measured(self, logits: Tensor, y: Tensor) -> float:
        """The measure, summed up over all known targets."""
        flat, known = known_targets(logits, y)
        if self.measure == "accuracy":
            return float((flat.argmax(-1) == known).sum())
        return float(F.cross_entropy(flat, known, reduction="sum"))


class Batch(NamedTuple):
    """Samples, their targets, and a teacher's logits if it was asked beforehand."""

    x: Tensor
    y: Tensor
    answers: Tensor | None


def _alike(parts: list[Tensor], lengths: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Batches of the same sizes, those of `TOGETHER` in a row sorted by length and mixed again."""
    found: list[Tensor] = []
    for start in range(0, len(parts), TOGETHER):
        together = parts[start : start + TOGETHER]
        rows = torch.cat(together)
        rows = rows[torch.argsort(lengths[rows], stable=True)]
        found += rows.split([len(part) for part in together])
    return [found[i] for i in torch.randperm(len(found), generator=generator)]


def known_targets(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (..., C) of the targets (...) that are known, in rows (n, C), and those (n,)."""
    known = y != UNKNOWN
    return logits[known], y[known]


def _trimmed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the last columns, in which no row foretells anything."""
    if y.ndim == 1:
        return x, y
    length = int((y != UNKNOWN).any(0).sum())
    return x[:, :length], y[:, :length]
