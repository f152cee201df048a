"""Parts `digits_fast`, `_small` and `_standard`: trained, compiled, answered, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.encrypted import execute
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from benchmarks.trained import TrainedModel, preset
from torusformer.pipelines.values import to_integers

FAST, SMALL, STANDARD, QUICK = "digits-fast", "digits-small", "digits-standard", "tiny"


def model(bench: Bench, name: str) -> TrainedModel:
    """The preset; in quick runs the one for tests, hardly trained."""
    if bench.quick:
        return preset(QUICK, bench.store.models, epochs=1)
    return preset(name, bench.store.models)


def measure(bench: Bench, name: str, images: int) -> dict[str, Any]:
    """Encrypted runs of the first held-out images; accuracy over all of them in the clear."""
    trained = model(bench, name)
    port = trained.program.inputs[0]
    samples = [{port.name: q_x} for q_x in to_integers(port, trained.task.x_test[:images])]
    runs = execute(bench, trained.key, trained.program, samples)
    return {
        "preset": trained.name,
        "model": trained.key,
        "accuracy": trained.accuracies["program"],
        "float_accuracy": trained.accuracies["float"],
        "quantized_accuracy": trained.accuracies["quantized"],
        "test_count": len(trained.task.x_test),
        **runs,
        "seconds": runs["seconds_median"],
    }


def render(result: Mapping[str, Any]) -> str:
    """One row."""
    head = ("preset", "accuracy", "float", "PBS", "encrypted", "median s", "planned s", "bit-exact")
    row = (
        result["preset"],
        f"{percent(result['accuracy'])} of {result['test_count']}",
        percent(result["float_accuracy"]),
        result["pbs"],
        result["runs"],
        result["seconds_median"],
        result["predicted_seconds"],
        result["bit_exact"],
    )
    return table(head, [row])


DIGITS_FAST = Part(
    "digits_fast",
    "Digits, fast",
    "A transformer encoder with attention on held-out digits, each result compared bit for bit "
    "with the integer program.",
    lambda bench: measure(bench, FAST, 2 if bench.quick else 20),
    render,
)
DIGITS_SMALL = Part(
    "digits_small",
    "Digits, small",
    "What `make demo` runs: one layer, all four tokens attend.",
    lambda bench: measure(bench, SMALL, 1 if bench.quick else 5),
    render,
)
DIGITS_STANDARD = Part(
    "digits_standard",
    "Digits, standard",
    "Two layers, as the preset was when this was measured.",
    lambda bench: measure(bench, STANDARD, 1 if bench.quick else 3),
    render,
)
