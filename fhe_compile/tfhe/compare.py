"""Two plans in, their costs side by side out: bootstraps, seconds and ratios by layer."""

from __future__ import annotations

from dataclasses import dataclass

from torusformer.fhe_compile.tfhe.plan import Plan
from torusformer.tables import table


@dataclass(frozen=True)
class CompareRow:
    """One layer under two plans; a layer that one of them lacks costs it nothing."""

    layer: str
    pbs: tuple[int, int]
    seconds: tuple[float, float]

    @property
    def pbs_ratio(self) -> float | None:
        """First by second; None where the second needs nothing."""
        return self.pbs[0] / self.pbs[1] if self.pbs[1] else None

    @property
    def seconds_ratio(self) -> float | None:
        """First by second; None where the second needs nothing."""
        return self.seconds[0] / self.seconds[1] if self.seconds[1] else None

    def to_json(self) -> dict[str, object]:
        """Plain numbers; a missing ratio is null."""
        return {
            "layer": self.layer,
            "pbs": list(self.pbs),
            "seconds": [round(s, 4) for s in self.seconds],
            "pbs_ratio": self.pbs_ratio,
            "seconds_ratio": self.seconds_ratio,
        }


def compare(a: Plan, b: Plan) -> list[CompareRow]:
    """A row for every layer of either, those of `a` first, and the total last."""
    layers = dict.fromkeys([*a.pbs_by_layer, *b.pbs_by_layer])
    rows = [
        CompareRow(
            layer,
            (a.pbs_by_layer.get(layer, 0), b.pbs_by_layer.get(layer, 0)),
            (a.seconds_by_layer.get(layer, 0.0), b.seconds_by_layer.get(layer, 0.0)),
        )
        for layer in layers
    ]
    totals = (a.pbs_total, b.pbs_total), (a.predicted_seconds, b.predicted_seconds)
    return [*rows, CompareRow("total", *totals)]


def compare_table(rows: list[CompareRow], names: tuple[str, str]) -> str:
    """A line a layer, for people; "-" where there is nothing to divide by."""
    head = ("layer", "PBS A", "PBS B", "A/B", "seconds A", "seconds B", "A/B")
    cells = [
        (
            row.layer,
            *(f"{n:,}" for n in row.pbs),
            _ratio(row.pbs_ratio),
            *(f"{s:.2f}" for s in row.seconds),
            _ratio(row.seconds_ratio),
        )
        for row in rows
    ]
    lines = table(head, cells, right=range(1, len(head)))
    return f"A  {names[0]}\nB  {names[1]}\n{lines}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
