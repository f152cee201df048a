"""A failure probability in, the parameters that Concrete chooses out, by width of table.

They follow from the release of Concrete and the chance of failure alone, not from a machine: data
(`data/parameters.json`), found by compiling, see `survey`.

Concrete picks one set of parameters for all tables of a width. It is the cheap one while what the
tables write is read at low precision, and one with twice the work (`precise`) from a threshold on,
where precision = width of the reader + log2(sum of squared weights between table and reader) / 2.
A table that reads adds noise of its own, so its threshold is lower than that of a rounding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

READERS = ("rounding", "table")  # the client, who reads outputs, is about as exact as a rounding


@dataclass(frozen=True, order=True)
class KeySizes:
    """Dimensions of the keys behind tables of one width.

    `small` is the dimension of a ciphertext that enters a bootstrap; one that leaves it has
    `glwe * polynomial`. `level` counts the digits of the bootstrap's decomposition, `keyswitch`
    those of the keyswitch before it.
    """

    small: int
    glwe: int
    polynomial: int
    level: int
    keyswitch: int = 5

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

    @property
    def work(self) -> float:
        """Of one bootstrap, in butterflies.

        One transform of the polynomial for each digit of each part of the ciphertext and one back
        for each part, and that for every bit of the small key.
        """
        transforms = (self.glwe + 1) * (self.level + 1)
        return self.small * transforms * self.polynomial * (self.polynomial.bit_length() - 1) / 2


@dataclass(frozen=True)
class ReaderThresholds:
    """Precision from which tables are precise, by width of table, for one kind of reader."""

    rounding: dict[int, float]
    table: dict[int, float]


@dataclass(frozen=True)
class Parameters:
    """Concrete's choice at one `p_error`: by bits a table reads, and for bits of roundings."""

    p_error: float
    cheap: dict[int, KeySizes]
    precise: dict[int, KeySizes]
    precise_from: ReaderThresholds
    rounding: KeySizes
    precise_rounding: KeySizes
    rounding_precise_from: float

    def every_size(self, widest: int) -> set[KeySizes]:
        """All that tables of up to `widest` bits and roundings can get."""
        tables = {
            s for sizes in (self.cheap, self.precise) for b, s in sizes.items() if b <= widest
        }
        return tables | {self.rounding, self.precise_rounding}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; sizes as lists in the order of `KeySizes`."""

        def sizes(found: dict[int, KeySizes]) -> dict[str, list[int]]:
            return {str(bits): _as_list(size) for bits, size in found.items()}

        return {
            "p_error": self.p_error,
            "cheap": sizes(self.cheap),
            "precise": sizes(self.precise),
            "precise_from": {
                reader: {str(b): x for b, x in getattr(self.precise_from, reader).items()}
                for reader in READERS
            },
            "rounding": _as_list(self.rounding),
            "precise_rounding": _as_list(self.precise_rounding),
            "rounding_precise_from": self.rounding_precise_from,
        }


def _as_list(s: KeySizes) -> list[int]:
    return [s.small, s.glwe, s.polynomial, s.level, s.keyswitch]


def _from_json(data: dict[str, Any]) -> Parameters:
    def sizes(name: str) -> dict[int, KeySizes]:
        return {int(bits): KeySizes(*size) for bits, size in data[name].items()}

    def thresholds(reader: str) -> dict[int, float]:
        return {int(bits): float(x) for bits, x in data["precise_from"][reader].items()}

    return Parameters(
        p_error=float(data["p_error"]),
        cheap=sizes("cheap"),
        precise=sizes("precise"),
        precise_from=ReaderThresholds(*(thresholds(reader) for reader in READERS)),
        rounding=KeySizes(*data["rounding"]),
        precise_rounding=KeySizes(*data["precise_rounding"]),
        rounding_precise_from=float(data["rounding_precise_from"]),
    )


@lru_cache(maxsize=1)
def surveyed() -> tuple[Parameters, ...]:
    """Every failure probability that was surveyed, the smallest first."""
    text = (
        resources.files("torusformer.fhe_compile.prices")
        .joinpath("data/parameters.json")
        .read_text()
    )
    found = [_from_json(data) for data in json.loads(text)["surveyed"]]
    return tuple(sorted(found, key=lambda parameters: parameters.p_error))


def parameters_for(p_error: float) -> Parameters:
    """The surveyed ones at `p_error` or the next smaller: never cheaper than Concrete's own."""
    smaller = [parameters for parameters in surveyed() if parameters.p_error <= p_error]
    return smaller[-1] if smaller else surveyed()[0]
