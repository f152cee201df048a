"""Program in, the same with its wide sums narrowed out: to so many bits, or as answers allow.

`passes.narrow_sums` says how a table reads fewer bits: its sum is rounded, or wraps. Here it is
decided which layers keep how many: all the number that is asked for, rounded; or those with which
it is cheapest, by the plan, while the answers on samples stay within a budget. First all layers are
narrowed alike, bit by bit, either way; then, from the cheapest such program on, each layer by
itself, the dearest first, as long as the budget lasts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torusformer import InputError
from torusformer.fhe_compile.passes.common_factors import remove_common_factors
from torusformer.fhe_compile.passes.common_values import merge_common_values
from torusformer.fhe_compile.passes.dead_channels import remove_dead_channels
from torusformer.fhe_compile.passes.dead_nodes import remove_dead_nodes
from torusformer.fhe_compile.passes.fold_constants import fold_constants
from torusformer.fhe_compile.passes.fuse_tables import fuse_tables
from torusformer.fhe_compile.passes.narrow_sums import Found, Narrowing, narrow_sums, widths_read
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.prices.cost import PriceList, load_prices
from torusformer.fhe_compile.program.nodes import Program, Table
from torusformer.fhe_compile.tfhe.answers_kept import AnswersKept, Sample
from torusformer.fhe_compile.tfhe.plan import Plan, plan
from torusformer.tables import table

NARROWED_KEY = "narrowed"  # the metadata entry that says which layers read fewer bits, and how
WIDEST, NARROWEST = 12, 2  # bits that are tried for all layers alike
MOST_PLANS = 60  # a plan of a transformer takes seconds
WORTH = 0.005  # of all seconds: what is not worth looking for
HOW: tuple[Literal["wrapped"], Literal["rounded"]] = ("wrapped", "rounded")
_CLEANING = (
    remove_dead_nodes, fold_constants, merge_common_values, remove_dead_channels,
    remove_common_factors, remove_dead_nodes, fuse_tables,
)  # fmt: skip


@dataclass(frozen=True)
class NarrowedLayer:
    """What one layer lost and saved.

    `how`: its sums are "rounded" or "wrapped". `lost`: the loss (`AnswersKept`) when this
    layer alone is narrowed; None without samples.
    """

    layer: str
    tables: int
    bits_before: int
    bits_after: int
    seconds_before: float
    seconds_after: float
    how: str
    lost: float | None = None


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
                f"{x.bits_before} -> {x.bits_after}",
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
) -> Narrowed:
    """Round what tables read too wide.

    Args:
        program: as `lower` gives it.
        samples: its integer inputs, by name; with `within` at least one, better hundreds.
        bits: that sums are rounded to where tables read more; with `within` the most they keep.
        within: the loss (`AnswersKept`) that answers on the samples may have, 0.01 for 1 %.
        prices: by which layers are chosen, by default those of `load_prices`.

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
    search = _Search(program, samples, prices or load_prices())
    chosen = search.alike(Narrowing(bits)) if bits is not None else {}
    if within is not None:
        chosen = search.within(within, chosen)
    return search.narrowed(chosen)


class _Search:
    """Programs with layers narrowed to bits: `chosen` by layer, only those that are."""

    def __init__(self, program: Program, samples: Sequence[Sample], prices: PriceList) -> None:
        self.program, self.prices = program, prices
        options = PassOptions(prices)
        clean = program
        for rewrite in _CLEANING:  # bits are counted as they will be read
            clean = rewrite(clean, options)
        self.clean = clean
        self.answers = AnswersKept(clean, samples) if samples else None
        self.read = widths_read(clean)
        self.layers: dict[str, list[str]] = {}  # names of tables
        for node in clean.nodes:
            if isinstance(node, Table):
                self.layers.setdefault(node.layer, []).append(node.name)
        self.widths = {
            layer: max(self.read[name] for name in names) for layer, names in self.layers.items()
        }
        self._found: Found = {}
        self._plans: dict[tuple[tuple[str, Narrowing], ...], Plan] = {}

    def alike(self, to: Narrowing) -> dict[str, Narrowing]:
        """All layers that read more keep so many bits."""
        return {layer: to for layer, width in self.widths.items() if width > to.bits}

    def made(self, chosen: Mapping[str, Narrowing]) -> Program:
        """The program."""
        if not chosen:
            return self.program
        by_table = {name: n for layer, n in chosen.items() for name in self.layers[layer]}
        sums = self.answers.sums if self.answers else None
        return narrow_sums(self.clean, by_table, sums, self._found)

    def plan(self, chosen: Mapping[str, Narrowing]) -> Plan:
        """Its price, once."""
        key = tuple(sorted(chosen.items()))
        if key not in self._plans:
            self._plans[key] = plan(self.made(chosen), self.prices)
        return self._plans[key]

    def loss(self, chosen: Mapping[str, Narrowing]) -> float:
        """What it changes."""
        assert self.answers is not None
        return self.answers.loss(self.made(chosen))

    def within(self, budget: float, most: Mapping[str, Narrowing]) -> dict[str, Narrowing]:
        """The cheapest found; where none of `most` stays within the budget, that."""
        best, seconds = dict(most), self.plan(most).predicted_seconds
        widest = max(self.widths.values(), default=0)
        for how in HOW:
            for bits in range(min(WIDEST, widest - 1), NARROWEST - 1, -1):
                chosen = self.alike(Narrowing(bits, how))
                if self.loss(chosen) > budget:
                    break
                if (found := self.plan(chosen).predicted_seconds) < seconds:
                    best, seconds = chosen, found
        improved = True
        while improved:
            improved = False
            spent = self.plan(best).seconds_by_layer
            worth = [x for x in self.layers if spent.get(x, 0.0) > WORTH * seconds]
            for layer in sorted(worth, key=lambda name: -spent[name]):
                for to in self._next(layer, best.get(layer)):
                    if len(self._plans) >= MOST_PLANS:
                        return best
                    chosen = {**best, layer: to}
                    found = self.plan(chosen).predicted_seconds
                    if found < (1 - WORTH) * seconds and self.loss(chosen) <= budget:
                        best, seconds, improved = chosen, found, True
                        break
        return best

    def _next(self, layer: str, now: Narrowing | None) -> list[Narrowing]:
        """What may be cheaper for a layer, by what its tables and roundings alone take."""
        width = self.widths[layer]
        now = now or Narrowing(width, "wrapped")
        tried = [Narrowing(n, how) for n in range(now.bits - 1, now.bits + 2) for how in HOW]
        able = [to for to in tried if 1 <= to.bits < width]
        return [to for to in able if self._ms(width, to) < self._ms(width, now)]

    def _ms(self, width: int, to: Narrowing) -> float:
        """Of an element, about."""
        dropped = width - to.bits if to.how == "rounded" else 0
        return self.prices.table(to.bits) + self.prices.rounding(width, dropped)

    def narrowed(self, chosen: Mapping[str, Narrowing]) -> Narrowed:
        """What it is and what it costs; the program's metadata say so, too."""
        before, after = self.plan({}), self.plan(chosen)
        lost = self.loss(chosen) if self.answers else None
        made, rows = self.made(chosen), list[NarrowedLayer]()
        for layer, to in chosen.items():
            rows.append(
                NarrowedLayer(
                    layer,
                    sum(self.clean.ranges[name].lo.size for name in self.layers[layer]),
                    self.widths[layer],
                    to.bits,
                    round(before.seconds_by_layer.get(layer, 0.0), 3),
                    round(after.seconds_by_layer.get(layer, 0.0), 3),
                    to.how,
                    self.loss({layer: to}) if self.answers else None,
                )
            )
        about = {x.layer: {"bits": [x.bits_before, x.bits_after], "how": x.how} for x in rows}
        told = {NARROWED_KEY: json.dumps({"layers": about, "lost": lost})} if rows else {}
        program = made.replace(metadata={**self.program.metadata, **told})
        measure = self.answers.about if self.answers else ""
        return Narrowed(program, before, after, tuple(rows), lost, measure)
