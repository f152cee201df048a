"""Plans in, bars out: seconds by layer in the terminal, and as a PNG coloured by bit width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torusformer import __version__
from torusformer.fhe_compile import Plan
from torusformer.folders import output_file
from torusformer.tables import table

MARK = b"torusformer"  # in the head of every PNG of ours, so that it may be replaced


def terminal_chart(plan: Plan, cells: int = 40) -> str:
    """A bar for each layer, the longest over the whole width."""
    from rich.bar import Bar

    seconds = plan.seconds_by_layer
    if not seconds:
        return "no bootstraps"
    longest = max(seconds.values())
    rows = [(layer, f"{s:.2f} s", Bar(longest, 0, s, width=cells)) for layer, s in seconds.items()]
    return table(("", "", ""), rows, right=[1])


def save_chart(plans: Sequence[tuple[str, Plan]], path: Path) -> None:
    """A panel for each named plan: seconds by layer, stacked by the bits that tables read."""
    from matplotlib.figure import Figure

    widths = sorted({_width(row.op, row.bits) for _, plan in plans for row in plan.rows})
    layers = max((len(plan.seconds_by_layer) for _, plan in plans), default=1)
    figure = Figure(figsize=(7 * len(plans), 1.4 + 0.26 * layers), layout="constrained")
    panels = figure.subplots(1, len(plans), squeeze=False)[0]
    for axes, (name, plan) in zip(panels, plans, strict=True):
        layer_names = list(plan.seconds_by_layer)
        left = dict.fromkeys(layer_names, 0.0)
        for index, width in enumerate(widths):
            seconds = dict.fromkeys(layer_names, 0.0)
            for row in plan.rows:
                if _width(row.op, row.bits) == width:
                    seconds[row.layer] += row.ms / 1000
            label = f"table of {width} bits" if width else "rounding"
            colour = f"C{index % 10}"
            starts, lengths = list(left.values()), list(seconds.values())
            axes.barh(layer_names, lengths, left=starts, label=label, color=colour)
            left = {layer: left[layer] + seconds[layer] for layer in layer_names}
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7)
        axes.margins(x=0.05, y=0.01)
        axes.set_xlabel("seconds")
        about = f"{plan.pbs_total:,} bootstraps, {plan.predicted_seconds:.1f} s"
        axes.set_title(f"{name}\n{about}", loc="left", fontsize=9)
        if widths:
            axes.legend()
    with output_file(path, is_ours) as new:
        made_by = {"Software": f"torusformer {__version__}"}
        figure.savefig(new, format="png", dpi=120, metadata=made_by)


def _width(op: str, bits: int) -> int:
    return 0 if op == "round" else bits


def is_ours(path: Path) -> bool:
    """Whether `save_chart` wrote it."""
    with path.open("rb") as file:
        return MARK in file.read(1024)
