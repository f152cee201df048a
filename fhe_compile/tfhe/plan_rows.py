"""The bootstraps of a plan, a row an operation, and what they add up to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class PlanRow:
    """The bootstraps of one operation: `bits` is the width it reads, `lsbs` what it drops.

    What `wraps` is read modulo 2**(bits + 1).
    """

    tag: str
    layer: str
    op: str
    bits: int
    lsbs: int
    pbs: int
    ms: float
    wraps: bool = False


class Costs:
    """What has `rows`: of a program, or of a configuration alone."""

    rows: tuple[PlanRow, ...]

    @property
    def pbs_total(self) -> int:
        """Programmable bootstraps of one run."""
        return sum(row.pbs for row in self.rows)

    @property
    def pbs_by_layer(self) -> dict[str, int]:
        """Bootstraps by the layer of the model they come from."""
        count: Counter[str] = Counter()
        for row in self.rows:
            count[row.layer] += row.pbs
        return dict(count)

    @property
    def pbs_by_bit_width(self) -> dict[int, int]:
        """Bootstraps by the bits that the table reads; those of a rounding read one bit."""
        count: Counter[int] = Counter()
        for row in self.rows:
            count[1 if row.op == "round" else row.bits] += row.pbs
        return dict(sorted(count.items()))

    @property
    def predicted_seconds(self) -> float:
        """Seconds of one run on the machine of the price list."""
        return sum(row.ms for row in self.rows) / 1000
