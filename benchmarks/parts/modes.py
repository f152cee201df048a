"""Parts `fast_mode` and `parallel`: answers when bootstraps may fail, and batches on all cores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.encrypted import execute
from benchmarks.parts.digits import FAST, model
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from torusformer.fhe_compile import compile_program, interpret, save_deployment
from torusformer.fhe_compile.prices.failure import EXACT, MODES, failure_probability
from torusformer.pipelines.answers import Answers, Deployed, DeployedInParallel, Faulty
from torusformer.pipelines.values import to_integers

SEEDS = 3  # draws of faults over all held-out images


def measure_fast_mode(bench: Bench) -> dict[str, Any]:
    """Accuracy with faults drawn at the rate of the mode, and encrypted runs at it."""
    trained = model(bench, FAST)
    port, task, p_error = trained.program.inputs[0], trained.task, MODES["fast"]
    images = 20 if bench.quick else len(task.x_test)
    samples = [{port.name: q_x} for q_x in to_integers(port, task.x_test[:images])]

    def drawn(seed: int) -> dict[str, Any]:
        faulty = Faulty(trained.program, p_error, seed)
        right = same = 0
        for q_x, y in zip(samples, task.y_test, strict=False):
            answer = faulty.answer(q_x)
            right += answer.prediction == task.labels[y]
            same += answer.equals(
                {port.name: interpret(trained.program, q_x)[port.name] for port in faulty.outputs}
            )
        share = {"accuracy": right / images, "bit_exact_share": same / images}
        return {**share, "faults": faulty.faults, "pbs": faulty.pbs_total}

    draws = [
        bench.keep(f"{trained.key}.faults.{seed}", drawn, seed)
        for seed in range(1 if bench.quick else SEEDS)
    ]
    runs = execute(
        bench, f"{trained.key}.fast", trained.program, samples[: 2 if bench.quick else 20], p_error
    )
    exact = bench.result("digits_fast")
    return {
        "preset": trained.name,
        "p_error": p_error,
        "failure_of_a_run": failure_probability(draws[0]["pbs"], p_error),
        "images": images,
        "accuracy_exact": exact["accuracy"],
        "simulated": draws,
        "encrypted": runs,
        "seconds_ratio": round(exact["seconds_median"] / runs["seconds_median"], 3),
    }


def render_fast_mode(result: Mapping[str, Any]) -> str:
    """What faults do to accuracy, and what the mode saves."""
    head = ("faults drawn over all images", "accuracy", "bit-exact")
    rows = [(d["faults"], percent(d["accuracy"]), percent(d["bit_exact_share"]))
            for d in result["simulated"]]  # fmt: skip
    runs = result["encrypted"]
    return (
        f"{table(head, rows)}\n\nWithout faults: {percent(result['accuracy_exact'])}. The plan "
        f"bounds the failure of a run by {result['failure_of_a_run']:.2g}. Encrypted at this "
        f"p_error: {runs['runs']} images, all bit-exact: {'yes' if runs['bit_exact'] else 'no'}, "
        f"{runs['seconds_median']} s an image, {result['seconds_ratio']} times as fast as exact."
    )


def measure_parallel(bench: Bench) -> dict[str, Any]:
    """The same images one after the other with all cores, and one process a core."""
    trained = model(bench, FAST)
    port, jobs = trained.program.inputs[0], len(os.sched_getaffinity(0))
    images = jobs if bench.quick else 4 * jobs
    samples = [{port.name: q_x} for q_x in to_integers(port, trained.task.x_test[: images + 1])]

    def seconds(answers: Answers) -> dict[str, Any]:
        exact = all(
            answer.equals({name: interpret(trained.program, q_x)[name] for name in answer.q_y})
            for answer, q_x in zip(answers.rows, samples[1:], strict=True)
        )
        return {**answers.to_json(), "bit_exact": exact}

    folder = Path(tempfile.mkdtemp())
    try:
        save_deployment(compile_program(trained.program, p_error=EXACT), folder / "deployment")

        def one() -> dict[str, Any]:
            deployed = Deployed(folder / "deployment")
            deployed.answer(samples[0])  # expands the keys
            return seconds(deployed.answer_all(samples[1:], "all cores"))

        def many() -> dict[str, Any]:
            deployed = DeployedInParallel(folder / "deployment", jobs)
            return seconds(deployed.answer_all(samples[1:], "one process a core"))

        rows = {
            "one inference on all cores": bench.keep(f"{trained.key}.one", one),
            "one process a core": bench.keep(f"{trained.key}.many", many),
        }
    finally:
        shutil.rmtree(folder)
    first, second = (row["seconds_per_input"] for row in rows.values())
    return {"images": images, "rows": rows, "throughput_ratio": round(first / second, 3)}


def render_parallel(result: Mapping[str, Any]) -> str:
    """A row a way."""
    head = ("way", "processes", "s until an answer", "s an image", "bit-exact")
    rows = [
        (name, r["jobs"], r["latency_seconds"], r["seconds_per_input"], r["bit_exact"])
        for name, r in result["rows"].items()
    ]
    return (
        f"{table(head, rows)}\n\n{result['images']} images. Images a second, one process a core ÷ "
        f"all cores on one image: {result['throughput_ratio']}. The first image of each process "
        "includes expanding the keys."
    )


FAST_MODE = Part(
    "fast_mode",
    "Exact and fast",
    "The fast digits model at p_error 2⁻²⁰: faults drawn at that rate over all held-out images, "
    "and encrypted runs.",
    measure_fast_mode,
    render_fast_mode,
    needs=("digits_fast",),
)
PARALLEL = Part(
    "parallel",
    "Latency and throughput",
    "A batch of digits through a deployment: one image after the other on all cores, or a process "
    "a core.",
    measure_parallel,
    render_parallel,
)
