"""Part `passes`: each pass switched off in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.parts.digits import FAST, STANDARD, model
from benchmarks.render import table
from benchmarks.runner import Bench, Part
from torusformer import TorusformerError
from torusformer.fhe_compile import Program, plan
from torusformer.fhe_compile.passes.expand import OPTIONAL

ALL = "none"


def planned(program: Program, without: frozenset[str]) -> dict[str, Any]:
    """Bootstraps, widest read and seconds of a program whose expansion leaves passes out."""
    try:
        cost = plan(program, without=without)
    except TorusformerError as error:
        return {"error": str(error)}
    seconds = round(cost.predicted_seconds, 3)
    return {"pbs": cost.pbs_total, "bits": cost.max_bit_width, "predicted_seconds": seconds}


def measure(bench: Bench) -> dict[str, Any]:
    """Plans of two trained presets without each pass."""
    rows = []
    for preset in (FAST,) if bench.quick else (FAST, STANDARD):
        trained = model(bench, preset)
        for name in (ALL, *OPTIONAL):
            without = frozenset() if name == ALL else frozenset({name})
            key = f"{trained.key}.{name}"
            found = bench.keep(key, planned, trained.program, without)
            rows.append({"preset": preset, "without": name, **found})
    return {"rows": rows}


def render(result: Mapping[str, Any]) -> str:
    """A row a preset and pass."""
    head = ("preset", "without", "PBS", "widest bits", "planned s", "message")
    keys = ("preset", "without", "pbs", "bits", "predicted_seconds", "error")
    return table(head, [[row.get(key) for key in keys] for row in result["rows"]])


PASSES = Part(
    "passes",
    "What each pass is worth",
    "Plans of two trained presets with one pass switched off at a time.",
    measure,
    render,
)
