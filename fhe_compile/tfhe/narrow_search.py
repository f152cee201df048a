"""Tables and the ways to read them narrower in, the cheapest that keeps the answers out.

A way changes entries (`narrow_ways`), which changes answers: by how much is measured once a table,
for a way in the middle, and taken to grow with the mean square of what changes, errors of several
tables to add up (as in mixed-precision quantization, Dong et al., "HAWQ-V2", 2020). For each weight
of these errors against milliseconds (`coupled_prices`) the best ways are found table by table, over
and over; the weight is lowered until answers on the samples leave the budget. Then the dearest
tables are taken one by one, each as cheap as what is left of the budget allows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from torusformer.fhe_compile.passes.expand import PLAIN, expand
from torusformer.fhe_compile.passes.narrow_sums import Found, Narrowing, narrow_sums
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.nodes import (
    Broadcast,
    Concat,
    MatMul,
    Mul,
    Program,
    Reshape,
    Slice,
    Table,
    Transpose,
)
from torusformer.fhe_compile.tfhe.answers_kept import AnswersKept
from torusformer.fhe_compile.tfhe.coupled_prices import CoupledPrices, Reading
from torusformer.fhe_compile.tfhe.encode import encode, tag_of
from torusformer.fhe_compile.tfhe.narrow_ways import MOST, Way, ways_of

_DEAREST = 1e10  # milliseconds that all answers together are worth: nothing is lost for less
_FACTOR, _HALVINGS = 8.0, 3  # from one weight to the next, and between the last two
_FAILURES = 3  # weights in a row that leave the budget
_SWEEPS = 3
_ONE_BY_ONE = 12  # the dearest tables, each worth four or so losses
Chosen = dict[str, Narrowing]


class NarrowSearch:
    """Ways for all tables of a program that is cleaned already."""

    def __init__(
        self,
        program: Program,
        answers: AnswersKept,
        prices: PriceList,
        found: Found,
        most: int | None = None,
    ) -> None:
        """`most`: bits that a table may read at most."""
        self.program, self.answers, self._found = program, answers, found
        tables = [node for node in program.nodes if isinstance(node, Table)]
        self._tags = {node.name: tag_of(node) for node in tables}
        whole = ["narrow_clips", "split_columns"]  # tables keep their names
        expanded = expand(program, PassOptions(prices), without=whole)[PLAIN]
        self._prices = CoupledPrices(encode(expanded), prices)
        multiplied = _multiplied(program)
        self.ways: dict[str, list[Way]] = {}
        for node in tables:
            if self._tags[node.name] in self._prices.given:
                x, seen = program.ranges[node.inputs[0]], answers.sums[node.inputs[0]]
                widest, tight = min(MOST, most or MOST), node.name in multiplied
                ways = ways_of(node, x, seen, prices, widest, tight=tight)
                narrow = [way for way in ways if most is None or way.reading.bits <= most]
                self.ways[node.name] = narrow or ways
        self._weights = {name: self._weight(name) for name in self.ways}

    def made(self, chosen: Mapping[str, Narrowing]) -> Program:
        """The program with these tables narrowed."""
        return narrow_sums(self.program, chosen, self.answers.sums, self._found)

    def loss(self, chosen: Mapping[str, Narrowing]) -> float:
        """What it changes, average errors of logits taken off."""
        found = self.answers.answers(self.made(chosen))
        error = self.answers.error(found)
        return self.answers.loss_of([y - error for y in found])

    def within(self, budget: float) -> Chosen:
        """The cheapest found whose loss is within the budget; nothing where none is.

        Samples are few and classes jump, so a lower weight may lose less: two more are tried.
        """
        best, weight, failed = dict[str, Way](), _DEAREST, 0
        inside, outside = 0.0, 0.0
        start = {name: ways[0] for name, ways in self.ways.items()}
        while weight > 1.0 and failed < _FAILURES:
            start = self._cheapest(start, weight)
            if self.loss(_of(start)) > budget:
                failed, outside = failed + 1, outside or weight
            else:
                best, inside, failed, outside = start, weight, 0, 0.0
            weight /= _FACTOR
        for _ in range(_HALVINGS if best and outside else 0):
            middle = float(np.sqrt(inside * outside))
            tried = self._cheapest(best, middle)
            if self.loss(_of(tried)) > budget:
                outside = middle
            else:
                best, inside = tried, middle
        as_it_is = {name: ways[0] for name, ways in self.ways.items()}
        ends = [self._one_by_one(best or as_it_is, budget)]
        if best and len(self.ways) <= _ONE_BY_ONE:
            ends.append(self._one_by_one(as_it_is, budget))
        return _of(min(ends, key=self._milliseconds))

    def _one_by_one(self, start: Mapping[str, Way], budget: float) -> dict[str, Way]:
        """From `start` on, which is within the budget, cheaper ways of the dearest tables.

        What is cheaper is taken to lose more: of each table's ways few are tried.
        """
        chosen = dict(start)

        def saved(name: str) -> float:
            cheapest = min(self.ways[name], key=lambda way: way.ms)
            return self._milliseconds(chosen) - self._milliseconds({**chosen, name: cheapest})

        for name in sorted(chosen, key=saved, reverse=True)[:_ONE_BY_ONE]:
            priced = [(self._milliseconds({**chosen, name: way}), way) for way in self.ways[name]]
            now = self._milliseconds(chosen)
            cheaper = sorted((pair for pair in priced if pair[0] < now), key=lambda pair: pair[0])
            low, high = 0, len(cheaper)
            while low < high:
                middle = (low + high) // 2
                if self.loss(_of({**chosen, name: cheaper[middle][1]})) > budget:
                    low = middle + 1
                else:
                    high = middle
            if high < len(cheaper):
                chosen[name] = cheaper[high][1]
        return chosen

    def _milliseconds(self, chosen: Mapping[str, Way]) -> float:
        readings = {self._tags[name]: self._reading(name, way) for name, way in chosen.items()}
        return self._prices.milliseconds(readings)

    def _weight(self, name: str) -> float:
        """How much answers change for each unit that entries of a table do."""
        lossy = [way for way in self.ways[name] if way.changed > 0 and way.to is not None]
        if not lossy:
            return 0.0
        way = sorted(lossy, key=lambda each: each.changed)[len(lossy) // 2]
        found = self.answers.answers(self.made(_of({name: way})))
        return self.answers.squared_change(found) / way.changed

    def _cheapest(self, start: Mapping[str, Way], weight: float) -> dict[str, Way]:
        """From `start` on, the best way of each table while the others stay, until none helps."""
        chosen = dict(start)
        readings = {self._tags[name]: self._reading(name, way) for name, way in chosen.items()}

        def price(name: str, way: Way) -> float:
            readings[self._tags[name]] = self._reading(name, way)
            return self._prices.milliseconds(readings) + weight * self._weights[name] * way.changed

        for _ in range(_SWEEPS):
            before = dict(chosen)
            for name, ways in self.ways.items():
                prices = [price(name, way) for way in ways]
                chosen[name] = ways[int(np.argmin(prices))]
                readings[self._tags[name]] = self._reading(name, chosen[name])
            if chosen == before:
                break
        return chosen

    def _reading(self, name: str, way: Way) -> Reading:
        """A table that reads a rounding keeps it."""
        given = self._prices.given[self._tags[name]]
        if way.to is None:
            return given
        return Reading(way.reading.bits, given.lsbs + way.reading.lsbs)


def _multiplied(program: Program) -> set[str]:
    """Tables whose codes are factors: one more of them may take a bit more in each product."""
    made, found = {node.name: node for node in program.nodes}, set[str]()
    names = [i for node in program.nodes if isinstance(node, MatMul | Mul) for i in node.inputs]
    while names:
        node = made.get(names.pop())
        if isinstance(node, Table):
            found.add(node.name)
        elif isinstance(node, Reshape | Transpose | Slice | Concat | Broadcast):
            names += node.inputs
    return found


def _of(ways: Mapping[str, Way]) -> Chosen:
    return {name: way.to for name, way in ways.items() if way.to is not None}
