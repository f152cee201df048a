"""Tables that read wide sums in, what rounding these would save out: bit by bit, by the prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torusformer.fhe_compile.prices.cost import PriceList

WIDE = 6  # bits; a table of more takes tenths of a second
LEAST = 4  # bits; below that tables get hardly cheaper and roundings dearer


@dataclass(frozen=True)
class WideSums:
    """A layer's `tables` that read sums of so many `bits`, and their seconds.

    `rounded[n]` are about the seconds if their sums were rounded to n bits, exactly, before.
    """

    layer: str
    bits: int
    tables: int
    seconds: float
    rounded: Mapping[int, float]

    def __str__(self) -> str:
        ways = ", ".join(f"{s:.1f} at {n}" for n, s in self.rounded.items())
        what = "a table reads a sum" if self.tables == 1 else f"{self.tables:,} tables read sums"
        return (
            f"{self.layer}: {what} of {self.bits} bits in {self.seconds:.1f} s; rounded to fewer "
            f"bits it is about {ways} (torusformer lower --accumulator-bits or --within)"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        rounded = {str(n): round(s, 3) for n, s in self.rounded.items()}
        return {**vars(self), "seconds": round(self.seconds, 3), "rounded": rounded}


def wide_sums(
    tables: Iterable[tuple[str, int, int, float]], prices: PriceList
) -> tuple[WideSums, ...]:
    """Of (layer, bits, count, milliseconds) of tables, those of more than `WIDE` bits."""
    groups: dict[tuple[str, int], tuple[int, float]] = {}
    for layer, bits, count, ms in tables:
        if bits > WIDE:
            known, before = groups.get((layer, bits), (0, 0.0))
            groups[layer, bits] = known + count, before + ms
    found = []
    for (layer, bits), (count, ms) in groups.items():
        rounded = {}
        for n in range(bits - 1, LEAST - 1, -1):
            each = prices.rounding(bits, bits - n) + prices.table(n)
            if count * each < ms:
                rounded[n] = count * each / 1000
        if rounded:
            found.append(WideSums(layer, bits, count, ms / 1000, rounded))
    return tuple(found)
