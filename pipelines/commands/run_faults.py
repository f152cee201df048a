"""What `torusformer run --faults` says besides: how many answers failed bootstraps changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torusformer.pipelines.console import Outcome, percent

if TYPE_CHECKING:
    from torusformer.pipelines.answers import Answer, Faulty


def with_faults(
    outcome: Outcome, models: Sequence[Faulty], expected: Sequence[Answer], truth: list[str] | None
) -> Outcome:
    """The outcome, and what the faults changed: `models` answered `expected` one by one.

    What counts as changed are predictions, or where there are none, integers.
    """
    results = outcome.data["results"]
    bootstraps = sum(model.pbs_total for model in models)
    faults = sum(model.faults for model in set(models))
    changed = sum(
        not r["bit_exact"] if right.prediction is None else r["prediction"] != right.prediction
        for r, right in zip(results, expected, strict=True)
    )
    data = {
        **outcome.data,
        "p_error": models[0].p_error,
        "bootstraps": bootstraps,
        "faults": faults,
        "changed": changed,
        "bit_exact": sum(bool(r["bit_exact"]) for r in results),
    }
    text = (
        f"{outcome.text}\n{faults:,} faults in {bootstraps:,} bootstraps changed "
        f"{changed} of {len(results)} answers"
    )
    if truth is not None:
        pairs = zip(expected, truth, strict=True)
        data["accuracy_without_faults"] = sum(a.prediction == t for a, t in pairs) / len(truth)
        text += f"; without them {percent(data['accuracy_without_faults'])} right"
    return Outcome(data, text)
