"""What a student learns of a teacher besides its answers: hidden states and attention, by layer.

A layer of the student is held against one of the teacher's, at the same share of the way: layer 0
is the embedding, the last one the last. As in TinyBERT (arXiv 1909.10351), hidden states are
compared by their squared difference behind a learned linear map where widths differ, attention by
that of its scores before any softmax; so does MPCFormer (arXiv 2211.01452), whose student has
cheaper functions in their place. Both differences are shares of the teacher's mean square.

Where teacher and student read other tokens, or the student's last block follows a learned query,
hidden states are compared by their mean over tokens. Scores are compared where tokens and heads are
as many, and a larger one means more attention in both: `RISING`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torusformer.models.config import AttentionKind, ModelConfig
from torusformer.models.teacher import Teacher
from torusformer.models.transformer import Transformer

RISING: tuple[AttentionKind, ...] = ("softmax", "relu", "quad", "sigmoid", "table")
TINY = 1e-6


class Pair(NamedTuple):
    """Layers that are held against each other, counted from 1; 0 is the embedding."""

    student: int
    teacher: int


@dataclass(frozen=True)
class Seen:
    """What the blocks of one model computed last, by layer."""

    states: dict[int, Tensor]  # (B, T, dim)
    scores: dict[int, Tensor]  # (B, h, Q, T)


def layer_pairs(student: int, teacher: int) -> tuple[Pair, ...]:
    """Layers of the student spread evenly over those of the teacher.

    >>> [tuple(pair) for pair in layer_pairs(2, 6)]
    [(0, 0), (1, 3), (2, 6)]
    """
    if not student:  # a bag has no layers to compare
        return ()
    first, *rest = (Pair(i, int(i * teacher / student + 0.5)) for i in range(student + 1))
    return (first, *(Pair(i, max(1, j)) for i, j in rest))


class LayerLoss(nn.Module):
    """How far the layers of a student are from a teacher's; its maps are learned with the student.

    `hidden_weight` and `attention_weight` are those of the two means over pairs of layers.
    """

    def __init__(
        self,
        student: Transformer,
        teacher: Teacher,
        *,
        hidden_weight: float = 1.0,
        attention_weight: float = 1.0,
    ) -> None:
        """Maps drawn from torch's global generator."""
        super().__init__()
        self.hidden_weight, self.attention_weight = hidden_weight, attention_weight
        ours, theirs = student.config, teacher.model.config
        pairs = layer_pairs(ours.layers, theirs.layers)
        self.states = pairs if hidden_weight else ()
        alike = teacher.same_tokens and _same_scores(ours, theirs)
        asks = {c.layers for c in (ours, theirs) if c.pooling == "query"}
        self.scores = tuple(
            pair for pair in pairs[1:] if alike and attention_weight and not asks.intersection(pair)
        )
        self.token_wise, self.causal = teacher.same_tokens, ours.causal
        self.maps = nn.ModuleList(
            nn.Identity() if ours.dim == theirs.dim else nn.Linear(ours.dim, theirs.dim)
            for _ in self.states
        )
        self._models = (student, teacher.model)  # a tuple: they are no part of this
        self._seen = tuple(Seen({}, {}) for _ in self._models)

    def about(self) -> dict[str, Any]:
        """Which layers are held against which, as in a report."""
        return {
            "hidden": [list(pair) for pair in self.states],
            "attention": [list(pair) for pair in self.scores],
        }

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this is open, what both models compute is seen."""
        handles = []
        for model, seen in zip(self._models, self._seen, strict=True):
            for i, block in enumerate(model.blocks):
                if i == 0:
                    handles.append(block.register_forward_pre_hook(partial(_note_first, seen)))
                handles.append(block.register_forward_hook(partial(_note, seen.states, i + 1)))
                hook = partial(_note, seen.scores, i + 1)
                handles.append(block.attention.scores.register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for seen in self._seen:
                seen.states.clear()
                seen.scores.clear()

    def forward(self) -> Tensor:
        """Of the batch that both models saw last."""
        ours, theirs = self._seen
        states = [
            self._of_states(found, ours.states[pair.student], theirs.states[pair.teacher])
            for found, pair in zip(self.maps, self.states, strict=True)
        ]
        scores = [
            self._of_scores(ours.scores[pair.student], theirs.scores[pair.teacher])
            for pair in self.scores
        ]
        total = torch.zeros(())
        if states:
            total = total + self.hidden_weight * torch.stack(states).mean()
        return total + self.attention_weight * torch.stack(scores).mean() if scores else total

    def _of_states(self, found: nn.Module, ours: Tensor, theirs: Tensor) -> Tensor:
        if not self.token_wise or ours.shape[1] != theirs.shape[1]:
            ours, theirs = ours.mean(1), theirs.mean(1)
        return _distance(found(ours), theirs)

    def _of_scores(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.causal:  # what no token sees says nothing
            seen = torch.tril(torch.ones(ours.shape[-2:]))
            ours, theirs = ours * seen, theirs * seen
        return _distance(ours, theirs)


def _same_scores(ours: ModelConfig, theirs: ModelConfig) -> bool:
    """Whether scores of attention can be held against each other."""
    kinds = ours.attention in RISING and theirs.attention in RISING
    return kinds and ours.heads == theirs.heads and ours.causal == theirs.causal


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().mean() / (theirs.square().mean() + TINY)


def _note_first(seen: Seen, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    seen.states[0] = inputs[0]


def _note(seen: dict[int, Tensor], layer: int, module: nn.Module, _: Any, value: Tensor) -> None:
    seen[layer] = value
