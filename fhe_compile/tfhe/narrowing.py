"""Program in, the same with its wide sums narrowed out: to so many bits, or as answers allow.

`passes.narrow_sums` says how a table reads fewer bits: its sum is rounded, or wraps, or both. Here
it is decided which tables keep how many: all the number that is asked for, rounded; or those with
which it is cheapest while the answers on samples stay within a budget (`narrow_search`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.fhe_compile.passes.common_factors import remove_common_factors
from torusformer.fhe_compile.passes.common_values import merge_common_values
from torusformer.fhe_compile.passes.dead_channels import remove_dead_channels
from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.passes.fold_constants import fold_constants
from torusformer.fhe_compile.passes.fuse_tables import fuse_tables
from torusformer.fhe_compile.passes.narrow_sums import Found, Narrowing, narrow_sums, widths_read
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.split_columns import cut
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.program.nodes import Program, Table
from torusformer.fhe_compile.tfhe.answers_kept import AnswersKept, Sample, corrected
from torusformer.fhe_compile.tfhe.narrow_columns import join, sensitive_columns
from torusformer.fhe_compile.tfhe.narrow_search import NarrowSearch
from torusformer.fhe_compile.tfhe.plan import Plan, plan
from torusformer.tables import table

NARROWED_KEY = "narrowed"  # the metadata entry that says which layers read fewer bits, and how
_CLEANING = (
    remove_dead_nodes, fold_constants, merge_common_values, remove_dead_channels,
    remove_common_factors, remove_dead_nodes, fuse_tables,
)  # fmt: skip


@dataclass(frozen=True)
class NarrowedLayer:
    """What one layer lost and saved.

    Bits are those of the widest of its tables, `narrowest` those of another, afterwards. `how`: its
    sums are "rounded" or "wrapped", or some of them, or all, both. `lost`: the loss
    (`AnswersKept`) when this layer alone is narrowed; None without samples.
    """

    layer: str
    tables: int
    bits_before: int
    bits_after: int
    seconds_before: float
    seconds_after: float
    how: str
    narrowest: int
    lost: float | None = None

    @property
    def bits(self) -> str:
        """Before and after, for people."""
        least = f"{self.narrowest}-" if self.narrowest < self.bits_after else ""
        return f"{self.bits_before} -> {least}{self.bits_after}"


@dataclass(frozen=True)
class Narrowed:
    """A program whose sums are rounded, its plan and the one before, and the layers changed.

    `lost` is the loss of all together, `measure` says of what; without samples there is neither.
    """

    program: Program = field(repr=False)
    before: Plan = field(repr=False)
    after: Plan = field(repr=False)
    layers: tuple[NarrowedLayer, ...]
    lost: float | None = None
    measure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "layers": [dict(vars(layer)) for layer in self.layers],
            "lost": self.lost,
            "measure": self.measure,
            "seconds_before": round(self.before.predicted_seconds, 3),
            "seconds_after": round(self.after.predicted_seconds, 3),
            "key_bytes_before": self.before.key_bytes,
            "key_bytes_after": self.after.key_bytes,
        }

    def __str__(self) -> str:
        if not self.layers:
            return "no sum is rounded: none is read wider than asked for, or is worth it"
        head, right = ["layer", "tables", "bits", "sums are", "seconds"], [1, 2, 4]
        rows = [
            [
                x.layer,
                f"{x.tables:,}",
                x.bits,
                x.how,
                f"{x.seconds_before:.1f} -> {x.seconds_after:.1f}",
            ]
            for x in self.layers
        ]
        before, after = self.before, self.after
        seconds = f"{before.predicted_seconds:.1f} -> {after.predicted_seconds:.1f}"
        rows.append(["all", f"{sum(x.tables for x in self.layers):,}", "", "", seconds])
        if self.lost is not None:
            head.append("lost by it alone")
            for row, lost in zip(rows, [*(x.lost for x in self.layers), self.lost], strict=True):
                row.append(f"{100 * (lost or 0.0):.1f} %")
            right.append(5)
        text = table(head, rows, right=right)
        keys = [made.key_bytes / 2**20 for made in (before, after)]
        text += f"\nkeys {keys[0]:,.0f} -> {keys[1]:,.0f} MiB"
        return f"{text}\nlost: {self.measure}" if self.lost is not None else text


def narrow(
    program: Program,
    samples: Sequence[Sample] = (),
    *,
    bits: int | None = None,
    within: float | None = None,
    prices: PriceList | None = None,
    reference: Mapping[str, NDArray[np.float64]] | None = None,
) -> Narrowed:
    """Round what tables read too wide.

    Args:
        program: as `lower` gives it.
        samples: its integer inputs, by name; with `within` at least one, better hundreds.
        bits: that sums are rounded to where tables read more; with `within` the most they keep.
        within: the loss (`AnswersKept`) that answers on the samples may have, 0.01 for 1 %.
        prices: by which layers are chosen, by default those of `load_prices`.
        reference: the right answers on the samples, by output, (N, *shape): those of the model that
            the program was lowered from. Without them the program's own.

    Raises:
        InputError: neither `bits` nor `within`, or either is out of range, or no samples.
        BitWidthError: a sum that even Concrete's rounding does not read.
    """
    if bits is None and within is None:
        raise InputError("nothing says how far sums are rounded; give bits or within")
    if bits is not None and not 1 <= bits <= 16:
        raise InputError(f"sums keep {bits} bits; tables read 1 to 16, 4 or 5 are cheap")
    if within is not None and not 0 <= within < 1:
        raise InputError(f"within is {within}; it is a share of answers from 0 to 1, say 0.01")
    if within is not None and not samples:
        raise InputError("within is about answers on samples, and there are none; give some")
    prices = prices or load_prices()
    clean = program
    for rewrite in _CLEANING:  # bits are counted as they will be read
        clean = rewrite(clean, PassOptions(prices))
    answers = AnswersKept(clean, samples, reference) if samples else None
    whole = _Search(program, clean, answers, prices)
    if within is None or answers is None:
        return whole.narrowed(whole.alike(bits))
    chosen = whole.within(within, bits)
    if groups := sensitive_columns(clean, answers, prices):
        most, seconds = max(within, whole.lost(chosen)), whole.seconds(chosen)
        cut_up = cut(clean, groups)
        apart = _Search(program, cut_up, AnswersKept(cut_up, samples, reference), prices)
        ways = apart.within(within, bits)
        joined = join(clean, groups, ways)
        joined_answers = AnswersKept(joined.program, samples, reference)
        fewer = _Search(program, joined.program, joined_answers, prices)
        # Columns that share a table once more share a window: that may lose more.
        for search, found in ((fewer, joined.chosen), (apart, ways)):
            if search.seconds(found) < seconds and search.lost(found) <= most:
                return search.narrowed(found)
    return whole.narrowed(chosen)


class _Search:
    """Programs with tables narrowed: `chosen` by their names, only those that are."""

    def __init__(
        self, program: Program, clean: Program, answers: AnswersKept | None, prices: PriceList
    ) -> None:
        """`clean` computes what `program` does."""
        self.program, self.clean, self.answers, self.prices = program, clean, answers, prices
        self.read = widths_read(clean)
        self.layers: dict[str, list[str]] = {}  # names of tables
        for node in clean.nodes:
            if isinstance(node, Table):
                self.layers.setdefault(node.layer, []).append(node.name)
        self._found: Found = {}

    def alike(self, bits: int | None) -> dict[str, Narrowing]:
        """All tables that read more keep so many bits."""
        return {name: Narrowing(bits) for name, width in self.read.items() if bits and width > bits}

    def made(self, chosen: Mapping[str, Narrowing], *, correct: bool = False) -> Program:
        """The program; `correct`: average errors of logits are taken off by the client."""
        if not chosen:
            return self.program
        sums = self.answers.sums if self.answers else None
        made = narrow_sums(self.clean, chosen, sums, self._found)
        if correct and self.answers:
            made = corrected(made, self.answers.error(self.answers.answers(made)))
        return made

    def within(self, budget: float, most: int | None) -> dict[str, Narrowing]:
        """The cheapest found; where none is within the budget, what `most` bits alone ask for."""
        assert self.answers is not None
        search = NarrowSearch(self.clean, self.answers, self.prices, self._found, most)
        found, asked = search.within(budget), self.alike(most)
        return found if found and (asked or self.seconds(found) < self.seconds(asked)) else asked

    def lost(self, chosen: Mapping[str, Narrowing]) -> float:
        """The loss on the samples, average errors taken off."""
        return self.answers.loss(self.made(chosen, correct=True)) if self.answers else 0.0

    def seconds(self, chosen: Mapping[str, Narrowing]) -> float:
        """What the plan says."""
        return plan(self.made(chosen), self.prices).predicted_seconds

    def narrowed(self, chosen: Mapping[str, Narrowing]) -> Narrowed:
        """What it is and what it costs; the program's metadata say so, too."""
        made, answers = self.made(chosen, correct=True), self.answers
        before, after = plan(self.program, self.prices), plan(made, self.prices)
        lost = answers.loss(made) if answers else None
        rows = list[NarrowedLayer]()
        for layer, names in self.layers.items():
            to = {name: chosen[name] for name in names if name in chosen}
            if not to:
                continue
            rows.append(
                NarrowedLayer(
                    layer,
                    sum(self.clean.ranges[name].lo.size for name in to),
                    max(self.read[name] for name in to),
                    max(way.bits for way in to.values()),
                    round(before.seconds_by_layer.get(layer, 0.0), 3),
                    round(after.seconds_by_layer.get(layer, 0.0), 3),
                    _how(list(to.values())),
                    min(way.bits for way in to.values()),
                    answers.loss(self.made(to, correct=True)) if answers else None,
                )
            )
        about = {x.layer: {"bits": [x.bits_before, x.bits_after], "how": x.how} for x in rows}
        told = {NARROWED_KEY: json.dumps({"layers": about, "lost": lost})} if rows else {}
        program = made.replace(metadata={**self.program.metadata, **told})
        measure = answers.about if answers else ""
        return Narrowed(program, before, after, tuple(rows), lost, measure)


def _how(ways: Sequence[Narrowing]) -> str:
    """In words."""
    rounded = [way.how == "rounded" or way.lsbs > 0 for way in ways]
    wrapped = [way.how == "wrapped" for way in ways]
    if any(rounded) and any(wrapped):
        return "rounded, wrapped"
    return "rounded" if any(rounded) else "wrapped"
