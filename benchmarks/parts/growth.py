"""Part `growth`: planned cost as tokens, width, layers and bits grow, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.render import table
from benchmarks.runner import Bench, Part
from benchmarks.untrained import untrained_program
from torusformer import TorusformerError
from torusformer.fhe_compile import plan
from torusformer.models import ModelConfig
from torusformer.quantize import QuantConfig

PRESET = "digits-softmax"  # where each series starts from
PATCHES = {2: (4, 8), 4: (2, 8), 8: (1, 8), 16: (2, 2), 32: (1, 2)}
SERIES: dict[str, tuple[int, ...]] = {
    "tokens": (2, 4, 8, 16, 32),
    "dim": (8, 16, 32, 64),
    "layers": (1, 2, 3, 4),
    "bits": (2, 3, 4),
}
PLOT = "growth.png"


def point(axis: str, value: int, preset: str) -> dict[str, Any]:
    """The plan of the preset with one thing changed."""
    model, quant = ModelConfig.from_name(preset), QuantConfig.from_name(preset)
    match axis:
        case "tokens":
            rows, columns = PATCHES[value]
            model = model.replace(tokens=value, features=rows * columns, patch=(rows, columns))
        case "bits":
            extra = value - 2
            quant = quant.replace(
                act_bit_width=value, score_bit_width=value, value_bit_width=value,
                sum_bit_width=quant.sum_bit_width + extra,
            )  # fmt: skip
        case "dim":
            model = model.replace(dim=value, mlp_dim=2 * value)
        case _:
            model = model.replace(**{axis: value})
    try:
        cost = plan(untrained_program(preset, model, quant))
    except TorusformerError as error:
        return {"error": str(error)}
    if not cost.pbs_total:  # means of many tokens, in these widths, round to zero before training
        return {
            "error": "untrained, every weight of the pooled tokens rounds to zero: no cost to tell"
        }
    seconds = round(cost.predicted_seconds, 3)
    return {"pbs": cost.pbs_total, "bits": cost.max_bit_width, "predicted_seconds": seconds}


def measure(bench: Bench) -> dict[str, Any]:
    """Every series, and a plot of them."""
    preset = "tiny" if bench.quick else PRESET
    rows = []
    for axis, values in SERIES.items():
        for value in values[:2] if bench.quick else values:
            found = bench.keep(f"{axis}.{value}", point, axis, value, preset)
            rows.append({"grows": axis, "value": value, **found})
    draw(rows, bench)
    return {"preset": preset, "rows": rows, "plot": PLOT}


def draw(rows: list[dict[str, Any]], bench: Bench) -> None:
    """Planned seconds against each size, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(SERIES), sharey=True)
    for plot, axis in zip(axes, SERIES, strict=True):
        points = [r for r in rows if r["grows"] == axis and "error" not in r]
        x = [r["value"] for r in points]
        plot.plot(x, [r["predicted_seconds"] for r in points], marker="o", color="#205493")
        plot.set_xscale("log", base=2)
        plot.set_yscale("log")
        plot.set_xticks(x, [str(v) for v in x])
        plot.set_xlabel(axis)
        plot.grid(alpha=0.3)
    axes[0].set_ylabel("planned seconds")
    figure.savefig(bench.folder / PLOT, dpi=120)


def render(result: Mapping[str, Any]) -> str:
    """A row a point, and the plot."""
    head = ("what grows", "to", "PBS", "widest bits", "planned s", "message")
    keys = ("grows", "value", "pbs", "bits", "predicted_seconds", "error")
    rows = [[row.get(key) for key in keys] for row in result["rows"]]
    return f"![planned seconds]({result['plot']})\n\n{table(head, rows)}"


GROWTH = Part(
    "growth",
    "How the cost grows",
    "Planned cost of the standard preset, untrained, with one thing changed at a time; bits are "
    "those of activations, queries, keys and values.",
    measure,
    render,
)
