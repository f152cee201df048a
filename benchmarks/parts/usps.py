"""Part `usps`: handwritten digits of 16 by 16 pixels, their official test part, and encrypted runs.

Trained on a file of the user's (`make bench ONLY=usps DATA=usps.npz`) with `x`, `y`, `x_test` and
`y_test`; in quick runs on scikit-learn's digits, enlarged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encrypted import execute
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from benchmarks.trained import digest
from torusformer.fhe_compile import Program, lower
from torusformer.folders import is_ours, output_folder
from torusformer.models import Transformer
from torusformer.pipelines.answers import InProcess
from torusformer.pipelines.baselines import baselines
from torusformer.pipelines.training import FLOAT, QONNX, Recipe, train_into
from torusformer.pipelines.values import to_integers
from torusformer.quantize import evaluate

PRESET, RUNS = "usps", 20
QUICK_SAMPLES = 400


def file_of(bench: Bench) -> Path:
    """The user's file; in quick runs without one, digits of the same size."""
    if bench.data is not None:
        return bench.data
    from sklearn.datasets import load_digits

    digits = load_digits()
    path = bench.store.folder / "digits-16x16.npz"
    x = digits.images[:QUICK_SAMPLES].repeat(2, axis=1).repeat(2, axis=2)
    np.savez(path, x=(255 / 16 * x).astype(np.uint8), y=digits.target[:QUICK_SAMPLES])
    return path


def trained(bench: Bench, recipe: Recipe, data: Path) -> Path:
    """Its folder; trained only if these settings were not trained on this file before."""
    settings = {part: getattr(recipe, part).to_dict() for part in ("model", "quant", "training")}
    settings["data"] = hashlib.sha256(data.read_bytes()).hexdigest()
    folder = bench.store.models / f"{PRESET}-{digest(settings)}"
    if not is_ours(folder, "run"):
        with output_folder(folder, "run") as new:
            train_into(new, recipe)
    return folder


def accuracies(recipe: Recipe, folder: Path, program: Program) -> dict[str, float]:
    """Of the integer program and of the float model, on every held-out image."""
    task = recipe.task
    right = InProcess(program).classes(task.x_test) == task.y_test
    return {
        "accuracy": round(float(right.mean()), 4),
        "float_accuracy": round(evaluate(Transformer.from_pretrained(folder / FLOAT), task), 4),
    }


def rows_beside(recipe: Recipe, bootstraps: int) -> list[dict[str, Any]]:
    """What the model has to beat: logistic regression, and an MLP of as many bootstraps."""
    found = baselines(recipe, bootstraps)
    return [
        {"name": "logistic regression", "accuracy": found["linear"], "pbs_total": 0},
        {"name": "MLP", "accuracy": found["mlp"], "pbs_total": bootstraps},
    ]


def measure(bench: Bench) -> dict[str, Any]:
    """Encrypted runs of the first held-out images; accuracy over all of them in the clear."""
    data = file_of(bench)
    recipe = Recipe.from_name("images", PRESET, data=data, epochs=1 if bench.quick else None)
    folder = trained(bench, recipe, data)
    program = lower(folder / QONNX, recipe.about())
    found = bench.keep(f"{folder.name}.accuracies", accuracies, recipe, folder, program)
    port, count = program.inputs[0], 1 if bench.quick else RUNS
    samples = [{port.name: q_x} for q_x in to_integers(port, recipe.task.x_test[:count])]
    runs = execute(bench, folder.name, program, samples)
    key = f"{folder.name}.baselines"
    beside = bench.keep(key, rows_beside, recipe, 16 if bench.quick else runs["pbs"])
    return {
        "preset": recipe.preset,
        **found,
        "test_count": recipe.task.test_count,
        **runs,
        "seconds": runs["seconds_median"],
        "baselines": beside,
    }


def render(result: Mapping[str, Any]) -> str:
    """The preset, then what stands beside it."""
    head = ("model", "accuracy", "PBS", "encrypted", "median s", "planned s", "bit-exact")
    rows: list[tuple[Any, ...]] = [
        (
            result["preset"],
            percent(result["accuracy"]),
            result["pbs"],
            result["runs"],
            result["seconds_median"],
            result["predicted_seconds"],
            result["bit_exact"],
        )
    ]
    for row in result["baselines"]:
        rows.append((row["name"], percent(row["accuracy"]), row["pbs_total"], *[None] * 4))
    return (
        f"{table(head, rows)}\n\nOf {result['test_count']} test images; the float model reads "
        f"{percent(result['float_accuracy'])} of them."
    )


USPS = Part(
    "usps",
    "Handwritten digits of 16 by 16 pixels",
    "The preset `usps` on the official test part of that data set, each encrypted result compared "
    "bit for bit with the integer program. Left out without `--data`.",
    measure,
    render,
    data=".npz",
)
