"""What an examination of a graph found, and how it is told: problems, dear sums, what works."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torusformer.tables import table

DEAR_BITS = 6  # a table of more costs tenths of a second an element


@dataclass(frozen=True)
class Problem:
    """Why a layer does not lower: what was `found`, the `limit` if there is one, the `cure`.

    `also` are layers in which the very same was found of the very same tensors.
    """

    layer: str
    operator: str
    found: str
    cure: str
    limit: str = ""
    also: tuple[str, ...] = ()

    @classmethod
    def of(cls, layer: str, operator: str, message: str) -> Problem:
        """Of an error's sentence: what was found; the cure. The limit is among the former."""
        found, _, cure = message.partition("; ")
        limit = re.search(r"the limit is ([^;,]+)", found)
        return cls(layer, operator, found, cure, limit[1] if limit else "")

    def __str__(self) -> str:
        also = f" (also: {', '.join(self.also)})" if self.also else ""
        where = f"{self.layer} ({self.operator})" if self.operator else self.layer
        return f"{where}: {self.found}{f'; {self.cure}' if self.cure else ''}{also}"


@dataclass(frozen=True)
class DearSum:
    """A layer's `tables` that lower but read sums of so many `bits`."""

    layer: str
    tables: int
    bits: int

    @property
    def cure(self) -> str:
        """What would make it cheap."""
        return f"round it: torusformer lower --accumulator-bits {DEAR_BITS}"

    def __str__(self) -> str:
        what = "one table reads its sum" if self.tables == 1 else f"{self.tables} tables read sums"
        return (
            f"{self.layer}: {what} of {self.bits} bits, which is dear above {DEAR_BITS}; "
            f"{self.cure}"
        )


@dataclass(frozen=True)
class Works:
    """A layer that lowers as it is: its operators, its tables and the widest sum they read."""

    layer: str
    operators: tuple[str, ...]
    tables: int = 0
    bits: int = 0


@dataclass(frozen=True)
class Examination:
    """All that was found of one model.

    `beyond` counts nodes that could not be looked at, for what they read hangs on a problem.
    """

    problems: tuple[Problem, ...]
    dear: tuple[DearSum, ...]
    works: tuple[Works, ...]
    beyond: int = 0

    @property
    def ok(self) -> bool:
        """Whether it lowers."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        return {
            "ok": self.ok,
            "problems": [_plain(vars(problem)) for problem in self.problems],
            "dear": [{**vars(dear), "cure": dear.cure} for dear in self.dear],
            "works": [_plain(vars(layer)) for layer in self.works],
            "beyond": self.beyond,
        }

    def __str__(self) -> str:
        text = [_counted(len(self.problems), "problem")]
        text += [f"{i}. {problem}" for i, problem in enumerate(self.problems, 1)]
        if self.beyond:
            text.append(f"{_counted(self.beyond, 'node')} behind them could not be looked at")
        if self.dear:
            text += ["", "lowers, but dear", *(f"- {dear}" for dear in self.dear)]
        if self.works:
            rows = [
                (w.layer, ", ".join(w.operators), w.tables or "", w.bits or "") for w in self.works
            ]
            head = ("layer", "operators", "tables", "bits read")
            text += ["", "works as it is", table(head, rows, right=(2, 3))]
        return "\n".join(text)


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'s' * (count != 1)}"


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}
