"""An encoded program in, what it costs with other widths of its tables out, in a millisecond.

All tables of a width share a set of parameters, and all that is summed up together is laid out as
wide as the widest of it is read. So what one table reads changes what others cost. A plan knows
that and takes a second; a search over hundreds of ways needs it sooner, to about 5 %.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from torusformer.fhe_compile.passes.refresh import PRECISE, WIDEST
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.tfhe.encoding import Encoding, component_roots
from torusformer.fhe_compile.tfhe.estimate import squared_weights
from torusformer.fhe_compile.tfhe.tensor_ops import Lookup, Truncate


class Reading(NamedTuple):
    """A table reads `bits` of a sum, behind a rounding by `lsbs`."""

    bits: int
    lsbs: int = 0


class _Site(NamedTuple):
    """A lookup: what it reads and writes into, how many, and the bits of what it gives."""

    tag: str
    size: int
    reads: int
    noise: float
    writes: int
    out_bits: int
    given: Reading


class CoupledPrices:
    """Milliseconds of a run, by what each lookup reads."""

    def __init__(self, encoding: Encoding, prices: PriceList) -> None:
        self.prices, ops = prices, encoding.operations
        roots, noise = component_roots(ops, encoding.links), squared_weights(encoding)
        self._sites = list[_Site]()
        self._outputs = [(roots[p.operation], p.bits, noise[p.operation]) for p in encoding.outputs]
        self._summed: dict[int, float] = defaultdict(float)  # the most noise in a component
        for i, op in enumerate(ops):
            self._summed[roots[i]] = max(self._summed[roots[i]], noise[i])
            if isinstance(op, Lookup):
                read = ops[op.args[0]]
                source = read.args[0] if isinstance(read, Truncate) else op.args[0]
                given = Reading(read.bits - op.lsbs, op.lsbs)
                size = -(-op.size // prices.threads) * prices.threads
                self._sites.append(
                    _Site(op.tag, size, roots[source], noise[source], roots[i], op.bits, given)
                )
        self.given: dict[str, Reading] = {site.tag: site.given for site in self._sites}
        """What each lookup reads, by its tag."""

    def milliseconds(self, chosen: Mapping[str, Reading]) -> float:
        """With other readings of some lookups: as they stand, or with narrow results refreshed."""
        read = [chosen.get(site.tag, site.given) for site in self._sites]
        width: dict[int, int] = defaultdict(int)
        for root, bits, _ in self._outputs:
            width[root] = max(width[root], bits)
        for site, (bits, lsbs) in zip(self._sites, read, strict=True):
            width[site.reads] = max(width[site.reads], bits + lsbs)
        needed: dict[int, dict[str, float]] = defaultdict(dict)

        def need(root: int, kind: str, precision: float) -> None:
            needed[root][kind] = max(needed[root].get(kind, 0.0), precision)

        roundings = 0.0
        for root, _, noise in self._outputs:
            need(root, "rounding", width[root] + _bits_of(noise))
        for site, (_, lsbs) in zip(self._sites, read, strict=True):
            bits = width[site.reads]
            need(site.reads, "table", bits - lsbs + _bits_of(site.noise + lsbs))
            if lsbs:
                need(site.reads, "rounding", bits + _bits_of(site.noise))
                roundings = max(roundings, bits + _bits_of(site.noise))
        rounding = self.prices.rounding(8, 1, roundings > self.prices.round_precise_from)
        plain = self._total(read, needed, rounding, fresh=False)
        return min(plain, self._total(read, needed, rounding, fresh=True))

    def _total(
        self,
        read: list[Reading],
        needed: Mapping[int, Mapping[str, float]],
        rounding: float,
        *,
        fresh: bool,
    ) -> float:
        counts: dict[int, int] = defaultdict(int)
        of_width: dict[int, dict[str, float]] = defaultdict(dict)
        total = 0.0
        for site, (bits, lsbs) in zip(self._sites, read, strict=True):
            total += site.size * lsbs * rounding
            counts[bits] += site.size
            needs, writer = needed.get(site.writes, {}), bits
            steep = max(needs.values(), default=0.0) >= PRECISE
            if fresh and steep and site.out_bits <= WIDEST and self._summed[site.writes] > 1:
                writer = site.out_bits  # an identity table of that
                counts[writer] += site.size
            for kind, precision in needs.items():
                of_width[writer][kind] = max(of_width[writer].get(kind, 0.0), precision)
        for bits, count in counts.items():
            precise = self.prices.is_precise(bits, of_width[bits])
            total += count * self.prices.table(bits, precise)
        return total


def _bits_of(noise: float) -> float:
    return math.log2(max(1.0, noise)) / 2
