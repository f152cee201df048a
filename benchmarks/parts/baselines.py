"""Part `baselines`: what a linear model and an MLP make of the samples that the presets answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.parts.digits import FAST, SMALL, STANDARD
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from torusformer.pipelines.baselines import baselines
from torusformer.pipelines.training import Recipe

PARTS = {"digits_fast": FAST, "digits_small": SMALL, "digits_standard": STANDARD}


def measure(bench: Bench) -> dict[str, Any]:
    """By task, then by preset: the MLP has as many bootstraps as the preset."""
    rows = {}
    for part, name in PARTS.items():
        found = bench.result(part)
        recipe = Recipe.from_name("digits", name, epochs=1 if bench.quick else None)
        made = bench.keep(name, baselines, recipe, 16 if bench.quick else found["pbs"])
        rows[name] = {**made, "accuracy": found["accuracy"], "pbs": found["pbs"]}
    return {"digits": {"linear": next(iter(rows.values()))["linear"], "presets": rows}}


def render(result: Mapping[str, Any]) -> str:
    """A row a preset."""
    head = ("preset", "PBS", "accuracy", "MLP of as many", "linear model", "gains")
    rows = []
    for name, row in result["digits"]["presets"].items():
        gains = row["accuracy"] > max(row["linear"], row["mlp"])
        shown = (percent(row[key]) for key in ("accuracy", "mlp", "linear"))
        rows.append((name, row["pbs"], *shown, "yes" if gains else "nothing"))
    return table(head, rows)


BASELINES = Part(
    "baselines",
    "What a model has to beat",
    "A linear model, and an MLP of one hidden layer with as many bootstraps, trained on the same "
    "digits as the presets.",
    measure,
    render,
    needs=tuple(PARTS),
)
