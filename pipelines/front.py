"""Measured candidates in; the Pareto front, its best member, table and picture out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from torusformer.pipelines.console import percent
from torusformer.tables import table


@dataclass(frozen=True)
class Measured:
    """A trained candidate: share of validation samples it gets right, and its plan."""

    number: int
    accuracy: float
    seconds: float
    pbs_total: int
    changes: str


@dataclass(frozen=True)
class Limits:
    """What is wanted: None where it does not matter."""

    min_accuracy: float | None = None
    max_seconds: float | None = None

    def allow(self, candidate: Measured) -> bool:
        """Whether a candidate is what was asked for."""
        right = self.min_accuracy is None or candidate.accuracy >= self.min_accuracy
        return right and (self.max_seconds is None or candidate.seconds <= self.max_seconds)

    def excess(self, candidate: Measured) -> dict[str, float]:
        """How far a candidate is beyond each limit; within it, zero or less."""
        beyond = {}
        if self.max_seconds is not None:
            beyond["seconds"] = candidate.seconds / self.max_seconds - 1
        if self.min_accuracy is not None:
            beyond["accuracy"] = self.min_accuracy - candidate.accuracy
        return beyond

    def most_seconds(self, measured: Iterable[Measured]) -> float:
        """Dearer candidates need no training: the limit, or what is already accurate enough."""
        if self.min_accuracy is not None and (best := self.best(measured)) is not None:
            return best.seconds
        return math.inf if self.max_seconds is None else self.max_seconds

    def best(self, candidates: Iterable[Measured]) -> Measured | None:
        """The cheapest above the accuracy; without one, the most accurate below the time."""
        allowed = [c for c in candidates if self.allow(c)]
        if self.min_accuracy is not None:
            return min(allowed, key=lambda c: (c.seconds, -c.accuracy), default=None)
        return max(allowed, key=lambda c: (c.accuracy, -c.seconds), default=None)


def pareto_front(candidates: Iterable[Measured]) -> list[Measured]:
    """Those that no other beats in accuracy and seconds, cheapest first.

    >>> points = ((0.9, 3.0), (0.8, 4.0), (0.8, 2.0), (0.9, 5.0))
    >>> measured = [Measured(i, a, s, 0, "") for i, (a, s) in enumerate(points)]
    >>> [c.number for c in pareto_front(measured)]
    [2, 0]
    """
    front: list[Measured] = []
    for candidate in sorted(candidates, key=lambda c: (c.seconds, -c.accuracy, c.number)):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return front


def front_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each member, for people; `rows` as in `front.json`."""
    head = ("candidate", "validation", "test", "seconds", "PBS", "what")
    cells = [
        (
            row["candidate"],
            percent(row["validation_accuracy"]),
            percent(row["test_accuracy"]),
            f"{row['predicted_seconds']:.2f}",
            row["pbs_total"],
            shorten(row["changes"], 60, placeholder=" …"),
        )
        for row in rows
    ]
    return table(head, cells)


def draw_front(path: Path, measured: Sequence[Measured], limits: Limits) -> None:
    """Seconds against accuracy: every trained candidate, the front, and the limits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    front = pareto_front(measured)
    axes.scatter(
        [c.seconds for c in measured],
        [100 * c.accuracy for c in measured],
        color="0.7",
        label="trained",
    )
    axes.step(
        [c.seconds for c in front],
        [100 * c.accuracy for c in front],
        where="post",
        marker="o",
        label="front",
    )
    for c in front:
        axes.annotate(
            str(c.number), (c.seconds, 100 * c.accuracy), xytext=(4, 4), textcoords="offset points"
        )
    if limits.max_seconds is not None:
        axes.axvline(limits.max_seconds, color="C3", linestyle="--", label="limit")
    if limits.min_accuracy is not None:
        axes.axhline(100 * limits.min_accuracy, color="C3", linestyle=":", label="wanted")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("predicted seconds an encrypted input")
    axes.set_ylabel("accuracy on validation samples, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
