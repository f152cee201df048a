"""Bits of a table or a rounding in, milliseconds and bytes out: one machine, one `p_error`.

Two kinds of data are joined: the parameters that Concrete chooses for a width (`parameters`) and
the milliseconds that this or another machine takes with them (`timings`). Between and beyond
the widths that have them, milliseconds are interpolated in log scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torusformer.fhe_compile.prices.failure import EXACT, check_p_error, show_p_error
from torusformer.fhe_compile.prices.parameters import KeySizes, Parameters, parameters_for
from torusformer.fhe_compile.prices.timings import Timings, difference, find_timings, this_machine

__all__ = ["KeySizes", "PriceList", "load_prices", "price_list"]


@dataclass(frozen=True)
class PriceList:
    """What bootstraps cost on one machine, per element of a large tensor with all cores busy.

    `table_ms[bits]`: a table lookup on that many bits, `precise_table_ms[bits]` the same with
    precise parameters, which it gets when its results are read at more than
    `precise_from[reader][bits]`. `round_ms[bits]`: exact removal of one low bit of a number of that
    many, `precise_round_ms` with precise parameters.
    """

    machine: dict[str, Any]
    table_ms: dict[int, float]
    round_ms: dict[int, float]
    precise_table_ms: dict[int, float] = field(default_factory=dict)
    precise_round_ms: float | None = None
    precise_from: Mapping[str, dict[int, float]] = field(default_factory=dict)
    round_precise_from: float = float("inf")
    keys: dict[int, KeySizes] = field(default_factory=dict)
    precise_keys: dict[int, KeySizes] = field(default_factory=dict)
    round_keys: KeySizes = field(default_factory=lambda: KeySizes(600, 2, 1024, 2))
    precise_round_keys: KeySizes | None = None
    p_error: float = EXACT
    origin: str = "given"
    note: str = ""

    def table(self, bits: int, precise: bool = False) -> float:
        """Milliseconds of one lookup on `bits` bits."""
        if precise and bits <= max(self.precise_table_ms, default=0):
            return _interpolate(self.precise_table_ms, bits)
        return _interpolate(self.table_ms, bits)

    def is_precise(self, bits: int, precision: Mapping[str, float]) -> bool:
        """Whether tables of `bits` bits get the parameters with twice the work.

        `precision`: the highest at which their results are read, by kind of reader.
        """
        return any(
            needed > self.precise_limit(bits, reader) for reader, needed in precision.items()
        )

    def precise_limit(self, bits: int, reader: str) -> float:
        """The highest precision at which such a reader may read cheap tables of `bits` bits."""
        if bits > max(self.precise_table_ms, default=0) or reader not in self.precise_from:
            return float("inf")
        return _interpolate(self.precise_from[reader], bits)

    def rounding(self, bits: int, lsbs: int, precise: bool = False) -> float:
        """Milliseconds to remove `lsbs` of `bits` bits exactly, one after the other."""
        if precise and self.precise_round_ms is not None:
            return lsbs * self.precise_round_ms
        return lsbs * _interpolate(self.round_ms, bits)

    def key_sizes(self, bits: int, precise: bool = False) -> KeySizes:
        """Of tables of `bits` bits; beyond the widest known, twice the polynomial a bit."""
        known = self.precise_keys if precise and bits in self.precise_keys else self.keys
        if bits in known or not known:
            return known.get(bits, self.round_keys)
        widest = max(known)
        if bits < widest:
            return known[min(w for w in known if w > bits)]
        last, factor = known[widest], 2 ** (bits - widest)
        return KeySizes(last.small, last.glwe, last.polynomial * factor, last.level, last.keyswitch)

    def rounding_key_sizes(self, precise: bool = False) -> KeySizes:
        """Of roundings."""
        return self.precise_round_keys if precise and self.precise_round_keys else self.round_keys

    def scaled(self, factor: float) -> PriceList:
        """The same on this machine, which was seen to take `factor` times as long."""

        def times(prices: Mapping[int, float]) -> dict[int, float]:
            return {bits: ms * factor for bits, ms in prices.items()}

        precise_round = self.precise_round_ms
        return replace(
            self,
            machine={**self.machine, **this_machine(), "factor": round(factor, 3)},
            table_ms=times(self.table_ms),
            round_ms=times(self.round_ms),
            precise_table_ms=times(self.precise_table_ms),
            precise_round_ms=None if precise_round is None else precise_round * factor,
            origin="probed",
        )

    @property
    def threads(self) -> int:
        """Of the machine it was measured on."""
        return int(self.machine.get("threads", 1))

    @property
    def elsewhere(self) -> str:
        """How the machine differs from this one, in words; empty if it does not."""
        return difference(self.machine) if self.machine else ""


def _interpolate(prices: Mapping[int, float], bits: int) -> float:
    """Log-linear between known widths, and with the last slope beyond them."""
    if bits in prices:
        return prices[bits]
    widths = sorted(prices)
    if bits < widths[0] or len(widths) == 1:
        return prices[widths[0]]
    logs = np.log([prices[w] for w in widths])
    if bits < widths[-1]:
        return float(np.exp(np.interp(bits, widths, logs)))
    slope = (logs[-1] - logs[-2]) / (widths[-1] - widths[-2])
    return float(np.exp(logs[-1] + slope * (bits - widths[-1])))


def load_prices(path: Path | None = None, p_error: float = EXACT) -> PriceList:
    """Prices at one failure probability: from `path`, of this machine's calibration, or shipped."""
    parameters = parameters_for(check_p_error(p_error))
    timings = find_timings(path)
    if p_error < parameters.p_error:
        note = (
            f"no prices are known below p_error {show_p_error(parameters.p_error)}: those are "
            f"used, and what it costs is more"
        )
        timings = replace(timings, note="; ".join(filter(None, (timings.note, note))))
    return price_list(parameters, timings, p_error)


def price_list(parameters: Parameters, timings: Timings, p_error: float) -> PriceList:
    """Join what Concrete chooses with what the machine takes for it."""
    rounding, precise_rounding = parameters.rounding, parameters.precise_rounding
    return PriceList(
        machine=timings.machine,
        table_ms={bits: timings.ms(sizes) for bits, sizes in parameters.cheap.items()},
        round_ms={1: timings.ms(rounding)},
        precise_table_ms={bits: timings.ms(sizes) for bits, sizes in parameters.precise.items()},
        precise_round_ms=timings.ms(precise_rounding),
        precise_from=vars(parameters.precise_from),
        round_precise_from=parameters.rounding_precise_from,
        keys=parameters.cheap,
        precise_keys=parameters.precise,
        round_keys=rounding,
        precise_round_keys=precise_rounding,
        p_error=p_error,
        origin=timings.origin,
        note=timings.note,
    )
