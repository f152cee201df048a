"""Parts `encoder_block` and `concrete_ml_all_tokens`: one block of wrapping sums, all attending."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.encrypted import execute
from benchmarks.parts.digits import SMALL
from benchmarks.parts.same_block import BLOCK, P_ERROR, TINY, task_of
from benchmarks.peer import assess, fast_settings, quick_settings
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from benchmarks.trained import TrainedModel, block, preset
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.pipelines.values import to_integers

MARGIN = 0.01  # accuracies this close count as equal
ROWS = {"tokens": 8, "features": 8, "patch": (1, 8), "dim": 16}
PATCHES = {"tokens": 16, "features": 4, "patch": (2, 2), "dim": 32}


def _trained(bench: Bench, shape: Mapping[str, Any]) -> TrainedModel:
    return preset(SMALL, bench.store.models, epochs=1 if bench.quick else None, shape=shape)


def _answered(
    bench: Bench, trained: TrainedModel, images: int, p_error: float = EXACT
) -> dict[str, Any]:
    """Encrypted runs of the first held-out images, and accuracies over all of them."""
    (port,) = trained.program.inputs
    samples = [{port.name: q_x} for q_x in to_integers(port, trained.task.x_test[:images])]
    runs = execute(bench, trained.key, trained.program, samples, p_error)
    return {
        "accuracy": trained.accuracies["program"],
        "float_accuracy": trained.accuracies["float"],
        **runs,
        "seconds": runs["seconds_median"],
    }


def measure_block(bench: Bench) -> dict[str, Any]:
    """Sixteen tokens of width 32."""
    found = _answered(bench, _trained(bench, PATCHES), 1 if bench.quick else 3)
    return {"model": f"{SMALL}, {PATCHES['tokens']} tokens of width {PATCHES['dim']}", **found}


def render_block(result: Mapping[str, Any]) -> str:
    """One row."""
    head = ("model", "accuracy", "float", "PBS", "median s", "planned s", "bit-exact")
    accuracies = (percent(result[key]) for key in ("accuracy", "float_accuracy"))
    keys = ("pbs", "seconds", "predicted_seconds", "bit_exact")
    return table(head, [(result["model"], *accuracies, *(result[key] for key in keys))])


def measure_all_tokens(bench: Bench) -> dict[str, Any]:
    """Each side's cheapest of eight rows of pixels, at accuracies a point apart or less.

    Where none of theirs is as accurate as ours, those as accurate as their best one count.
    """
    ours = _answered(bench, _trained(bench, ROWS), 1 if bench.quick else 3, P_ERROR)
    config = replace(TINY if bench.quick else BLOCK, reads="all")
    task = task_of(config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Named tensors")
        model, _, clear = block(config, task, bench.store.models)
    grid = quick_settings() if bench.quick else fast_settings()
    found = []
    for i, setting in enumerate(grid):
        bench.say(f"Concrete ML {i + 1}/{len(grid)}: {setting.name}")
        found.append(bench.keep(f"setting.{i}", assess, model, task, setting, P_ERROR))
    compiled = [s for s in found if "error" not in s]
    if not compiled:
        raise RuntimeError("no setting of Concrete ML compiles the block")
    goal = min(ours["accuracy"], max(s["accuracy"] for s in compiled)) - MARGIN
    theirs = min(
        (s for s in compiled if s["accuracy"] >= goal), key=lambda s: float(s["complexity"])
    )
    return {
        "p_error": P_ERROR,
        "complexity_ratio": round(theirs["complexity"] / ours["complexity"], 3),
        "accuracy": ours["accuracy"],
        "peer_accuracy": theirs["accuracy"],
        "peer_clear_accuracy": clear,
        "ours": ours,
        "theirs": theirs,
        "settings": found,
    }


def render_all_tokens(result: Mapping[str, Any]) -> str:
    """Ours, and every setting of theirs that was tried."""
    head = ("compiler", "accuracy", "PBS", "complexity", "seconds", "bit-exact", "message")
    ours = result["ours"]
    rows: list[tuple[object, ...]] = [
        (f"torusformer, {SMALL}, 8 tokens of width 16", percent(ours["accuracy"]), ours["pbs"],
         ours["complexity"], ours["seconds"], ours["bit_exact"], None),
    ]  # fmt: skip
    for s in result["settings"]:
        accuracy = percent(s["accuracy"]) if "accuracy" in s else None
        rows.append((f"Concrete ML, {s['setting']}", accuracy, s.get("pbs"), s.get("complexity"),
                     None, None, s.get("error")))  # fmt: skip
    return (
        f"{table(head, rows)}\n\nTheirs, {result['theirs']['setting']} "
        f"({percent(result['peer_accuracy'])}) ÷ ours ({percent(result['accuracy'])}): complexity "
        f"{result['complexity_ratio']}. The models are not the same: each side's is what it does "
        f"cheaply. Their block has {percent(result['peer_clear_accuracy'])} before it is compiled."
    )


ENCODER_BLOCK = Part(
    "encoder_block",
    "One encoder block of sixteen tokens",
    "Sums that wrap, width 32, two heads, all tokens attend, exact mode.",
    measure_block,
    render_block,
)
ALL_TOKENS = Part(
    "concrete_ml_all_tokens",
    "Eight tokens that all attend, against Concrete ML",
    "Each side's cheapest one-block classifier of digits cut into rows, width 16, at accuracies no "
    "more than a point apart, both at p_error 2⁻²⁰.",
    measure_all_tokens,
    render_all_tokens,
)
