"""Part `generation`: what a step of the decoder costs as its context grows, and what sharing costs.

Planned from untrained decoders: shapes and proved ranges decide.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import torusformer.pipelines.quiet_torch  # noqa: F401  before anything of quantize
from benchmarks.render import table
from benchmarks.runner import Bench, Part
from torusformer.fhe_compile.circuit.functions import plan_module
from torusformer.fhe_compile.decoding.decoder import DecoderProgram, lower_decoder
from torusformer.fhe_compile.decoding.names import step_name
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.models import ModelConfig, Transformer, load_task
from torusformer.pipelines.decoder_plan import plan_decoder
from torusformer.quantize import QuantConfig, calibrate, export_steps, to_qat

PRESET, CONTEXTS, PLOT = "words", (4, 8, 16, 32), "generation.png"


def untrained_decoder(preset: str, context: int) -> DecoderProgram:
    """Of a preset with another context."""
    shape = ModelConfig.from_name(preset).replace(tokens=context)
    task = load_task("words", input_shape=shape.input_shape)
    torch.manual_seed(0)
    model = Transformer(task.fitted(shape)).eval()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        twin = to_qat(model, QuantConfig.from_name(preset))
        calibrate(twin, task.x_train)
        graphs = export_steps(twin, Path(folder))
        return lower_decoder(graphs, {"labels": json.dumps(task.labels)})


def costs(preset: str, context: int) -> dict[str, Any]:
    """Of every step, closed and open, and of the last one with parameters of its own."""
    prices = load_prices()
    decoder = untrained_decoder(preset, context)
    found: dict[str, Any] = {"context": context}
    for loop, program in (("closed", decoder.with_picking()), ("open", decoder)):
        planned = plan_decoder(program, prices).functions
        steps = [planned[step_name(p)] for p in range(context)]
        last = program.steps[-1]
        alone = plan_module({"step": last}, {}, prices, prices.p_error).functions["step"]
        found[loop] = {
            "pbs": [plan.pbs_total for plan in steps],
            "seconds": [round(plan.predicted_seconds, 3) for plan in steps],
            "alone_seconds": round(alone.predicted_seconds, 3),
            "key_bytes": steps[-1].key_bytes,
        }
    return found


def measure(bench: Bench) -> dict[str, Any]:
    """Every context, a straight line through the steps of the longest, and a plot."""
    preset = "tiny-words" if bench.quick else PRESET
    contexts = (2, 3) if bench.quick else CONTEXTS
    rows = [bench.keep(f"context.{n}", costs, preset, n) for n in contexts]
    start = contexts[0] - 1  # and the last step leaves nothing behind: both ends are special
    pbs = np.array(rows[-1]["open"]["pbs"][start:-1], float)
    positions = start + np.arange(len(pbs))
    line = np.polyfit(positions, pbs, 1) if len(pbs) > 1 else np.array([0.0, pbs.sum()])
    off = float(np.abs(np.polyval(line, positions) - pbs).max() / pbs.max())
    draw(rows[-1], bench)
    return {
        "preset": preset,
        "rows": rows,
        "pbs_a_token_of_context": round(float(line[0]), 2),
        "pbs_without_context": round(float(line[1]), 1),
        "largest_distance_from_line": round(off, 4),
        "plot": PLOT,
    }


def draw(row: Mapping[str, Any], bench: Bench) -> None:
    """Bootstraps and seconds of every step of the longest context."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, said in zip(
        figure.subplots(1, 2), ("pbs", "seconds"), ("bootstraps", "planned seconds"), strict=True
    ):
        for loop, colour in (("closed", "#205493"), ("open", "#c05020")):
            axes.plot(row[loop][key], marker=".", color=colour, label=f"{loop} loop")
        axes.set(xlabel="position", ylabel=f"{said} of a step", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(bench.folder / PLOT, dpi=120)


def render(result: Mapping[str, Any]) -> str:
    """A row a context: its last step."""
    head = (
        "context", "PBS, open", "seconds", "with parameters of its own", "PBS, closed", "seconds",
        "with parameters of its own", "keys, MiB",
    )  # fmt: skip
    rows = [
        (
            row["context"],
            *(
                row[loop][key] if key == "alone_seconds" else row[loop][key][-1]
                for loop in ("open", "closed")
                for key in ("pbs", "seconds", "alone_seconds")
            ),
            round(row["closed"]["key_bytes"] / 2**20),
        )
        for row in result["rows"]
    ]
    return (
        f"![a step]({result['plot']})\n\n{table(head, rows)}\n\n"
        f"Each token of context adds {result['pbs_a_token_of_context']} bootstraps to "
        f"{result['pbs_without_context']}; no step is further than "
        f"{100 * result['largest_distance_from_line']:.1f} % from that line."
    )


GENERATION = Part(
    "generation",
    "A step of the decoder as its context grows",
    "Planned cost of the last step, untrained; what the argmax adds, and what it costs that all "
    "steps share their parameters.",
    measure,
    render,
)
