"""Parts `prices`, `efficiency` and `plan_error`: does a run cost what its bootstraps cost?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from benchmarks.attention import AttentionConfig, inhibitor_program, random_inputs, softmax_program
from benchmarks.encrypted import Inputs, execute
from benchmarks.parts.digits import FAST, STANDARD, model
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from benchmarks.untrained import untrained_program
from torusformer.fhe_compile import Program, plan
from torusformer.fhe_compile.circuit.calibrate import calibrate, prices_of, samples
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.prices.timings import find_timings, parse_timings

BITS = range(1, 7)


def measure_prices(bench: Bench) -> dict[str, Any]:
    """This machine's own time for a bootstrap of every width."""
    chosen = samples()
    # In a hurry, the list that ships with the package.
    timings = find_timings() if bench.quick else calibrate(chosen, lambda: None)
    return {
        "timings": timings.to_json(),
        "table_ms": {
            name: {str(bits): round(listed.table(bits), 3) for bits in BITS}
            for name, listed in prices_of(timings).items()
        },
    }


def prices(bench: Bench) -> PriceList:
    """The list that this run measured."""
    return prices_of(parse_timings(json.dumps(bench.result("prices")["timings"])))["exact"]


def render_prices(result: Mapping[str, Any]) -> str:
    """Milliseconds by width."""
    rows = [(name, *of_width.values()) for name, of_width in result["table_ms"].items()]
    return table(("ms of a table", *(f"{bits} bits" for bits in BITS)), rows)


def measure_efficiency(bench: Bench) -> dict[str, Any]:
    """Measured seconds over the sum of bootstraps times this machine's own time for one."""
    measured = bench.result("digits_fast")
    program = model(bench, FAST).program
    cost = plan(program, prices(bench))
    seconds = cost.predicted_seconds
    by_width: dict[int, float] = {}
    for row in cost.rows:
        by_width[row.bits] = by_width.get(row.bits, 0.0) + row.ms / 1000
    return {
        "program": measured["preset"],
        "seconds": measured["seconds_median"],
        "bootstrap_seconds": round(seconds, 3),
        "bootstrap_seconds_by_width": {str(b): round(s, 3) for b, s in sorted(by_width.items())},
        "ratio": round(measured["seconds_median"] / seconds, 3),
    }


def render_efficiency(result: Mapping[str, Any]) -> str:
    """One row."""
    keys = ("program", "seconds", "bootstrap_seconds", "ratio")
    head = ("program", "measured s", "PBS × own time, s", "ratio")
    return table(head, [[result[key] for key in keys]])


def other_programs(quick: bool) -> dict[str, tuple[Program, Inputs]]:
    """Programs that differ in shape and width, each with an input."""
    small = AttentionConfig(tokens=4, head_dim=4, heads=1)
    if quick:
        small = replace(small, tokens=2, head_dim=2)
    inputs = random_inputs(small, 0)
    found: dict[str, tuple[Program, Inputs]] = {
        "softmax attention": (softmax_program(small), inputs),
        "inhibitor attention": (inhibitor_program(small), inputs),
    }
    for name in ("tiny",) if quick else ("tiny", "digits-small"):
        program = untrained_program(name)
        port = program.inputs[0]
        x = np.random.default_rng(0).integers(port.lo, port.hi + 1, port.shape)
        found[f"{name}, untrained"] = (program, {port.name: x})
    return found


def measure_plan_error(bench: Bench) -> dict[str, Any]:
    """Planned against measured seconds, with the prices of this run."""
    listed, rows = prices(bench), []
    for part, name in (("digits_fast", FAST), ("digits_standard", STANDARD)):
        planned = plan(model(bench, name).program, listed).predicted_seconds
        result = bench.result(part)
        rows.append(_row(result["preset"], planned, result))
    for name, (program, inputs) in other_programs(bench.quick).items():
        key = name.replace(" ", "-").replace(",", "")
        result = execute(bench, key, program, [inputs] * (1 if bench.quick else 3))
        rows.append(_row(name, plan(program, listed).predicted_seconds, result))
    errors = [row["error"] for row in rows]
    return {"programs": rows, "median": float(median(errors)), "max": max(errors)}


def _row(name: str, planned: float, result: Mapping[str, Any]) -> dict[str, Any]:
    measured = result["seconds_median"]
    error = round(abs(planned - measured) / measured, 4)
    found = {"program": name, "pbs": result["pbs"], "planned_seconds": round(planned, 3)}
    return {**found, "seconds": measured, "error": error, "bit_exact": result["bit_exact"]}


def render_plan_error(result: Mapping[str, Any]) -> str:
    """A row a program, the summary below."""
    head = ("program", "PBS", "planned s", "measured s", "error", "bit-exact")
    rows = [
        (r["program"], r["pbs"], r["planned_seconds"], r["seconds"], percent(r["error"]),
         r["bit_exact"])
        for r in result["programs"]
    ]  # fmt: skip
    summary = f"Median error {percent(result['median'])}, largest {percent(result['max'])}."
    return f"{table(head, rows)}\n\n{summary}"


PRICES = Part(
    "prices",
    "Bootstraps on this machine",
    "Milliseconds of one table lookup by p_error and the bits it reads, all threads busy.",
    measure_prices,
    render_prices,
)
EFFICIENCY = Part(
    "efficiency",
    "Efficiency",
    "How much longer an image takes than its bootstraps alone would.",
    measure_efficiency,
    render_efficiency,
    needs=("prices", "digits_fast"),
)
PLAN_ERROR = Part(
    "plan_error",
    "Planned against measured",
    "Seconds that the plan foretells, with this machine's prices, and those that runs take.",
    measure_plan_error,
    render_plan_error,
    needs=("prices", "digits_fast", "digits_standard"),
)
