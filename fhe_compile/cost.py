"""Bits of a table or a rounding in, milliseconds and bytes out: the price list of one machine.

Prices are data (`data/pbs_timings.json`), measured by `calibrate` and named after processor,
threads, date and Concrete version; between and beyond measured widths they are interpolated in log
scale.

Concrete picks one set of parameters for all tables of a width. It is the cheap one while what the
tables write is read at low precision, and one with twice the work (`precise`) from
`precise_from[bits]` bits on, where precision = width of the reader + log2(sum of squared weights
between table and reader) / 2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class KeySizes:
    """Dimensions of the keys behind tables of one width.

    `small` is the dimension of a ciphertext that enters a bootstrap; one that leaves it has
    `glwe * polynomial`. `level` counts the digits of the decomposition.
    """

    small: int
    glwe: int
    polynomial: int
    level: int

    @property
    def big(self) -> int:
        """Dimension of a ciphertext after the bootstrap."""
        return self.glwe * self.polynomial

    @property
    def bootstrap_bytes(self) -> int:
        """Of the bootstrap key in memory: a GGSW ciphertext for each bit of the small key."""
        return self.sent_bytes * (self.glwe + 1)

    @property
    def sent_bytes(self) -> int:
        """Of the bootstrap key as it is sent, with a seed in place of the random masks."""
        return self.small * (self.glwe + 1) * self.polynomial * self.level * 8


@dataclass(frozen=True)
class PriceList:
    """What bootstraps cost on one machine, per element of a large tensor with all cores busy.

    `table_ms[bits]`: a table lookup on that many bits, `precise_table_ms[bits]` the same with
    precise parameters. `round_ms[bits]`: exact removal of one low bit of a number of that many.
    """

    machine: dict[str, Any]
    table_ms: dict[int, float]
    round_ms: dict[int, float]
    precise_table_ms: dict[int, float] = field(default_factory=dict)
    precise_from: dict[int, float] = field(default_factory=dict)
    keys: dict[int, KeySizes] = field(default_factory=dict)
    precise_keys: dict[int, KeySizes] = field(default_factory=dict)
    round_keys: KeySizes = field(default_factory=lambda: KeySizes(600, 2, 1024, 2))

    def table(self, bits: int, precision: float = 0.0) -> float:
        """Milliseconds of one lookup on `bits` bits whose result is read at `precision`."""
        if self.is_precise(bits, precision):
            return _interpolate(self.precise_table_ms, bits)
        return _interpolate(self.table_ms, bits)

    def is_precise(self, bits: int, precision: float) -> bool:
        """Whether tables of `bits` bits get the parameters with twice the work."""
        if not self.precise_from or bits > max(self.precise_table_ms, default=0):
            return False
        return precision > _interpolate(self.precise_from, bits)

    def rounding(self, bits: int, lsbs: int) -> float:
        """Milliseconds to remove `lsbs` of `bits` bits exactly, one after the other."""
        return lsbs * _interpolate(self.round_ms, bits)

    def key_sizes(self, bits: int, precise: bool = False) -> KeySizes:
        """Of tables of `bits` bits; beyond the widest measured, twice the polynomial a bit."""
        known = self.precise_keys if precise and bits in self.precise_keys else self.keys
        if bits in known or not known:
            return known.get(bits, self.round_keys)
        widest = max(known)
        if bits < widest:
            return known[min(w for w in known if w > bits)]
        last, factor = known[widest], 2 ** (bits - widest)
        return KeySizes(last.small, last.glwe, last.polynomial * factor, last.level)


def _interpolate(prices: dict[int, float], bits: int) -> float:
    """Log-linear between measured widths, and with the last slope beyond them."""
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


@lru_cache(maxsize=8)
def load_prices(path: Path | None = None) -> PriceList:
    """Read a price list: the one that ships with the package, or another machine's."""
    if path is None:
        text = resources.files("fhe_compile").joinpath("data/pbs_timings.json").read_text()
    else:
        text = path.read_text()
    data = json.loads(text)

    def numbers(name: str) -> dict[int, float]:
        return {int(bits): float(value) for bits, value in data[name].items()}

    def sizes(name: str) -> dict[int, KeySizes]:
        return {int(bits): KeySizes(**value) for bits, value in data[name].items()}

    return PriceList(
        machine=data["machine"],
        table_ms=numbers("table_ms"),
        round_ms=numbers("round_ms"),
        precise_table_ms=numbers("precise_table_ms"),
        precise_from=numbers("precise_from"),
        keys=sizes("keys"),
        precise_keys=sizes("precise_keys"),
        round_keys=KeySizes(**data["round_keys"]),
    )
