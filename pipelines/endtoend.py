"""A recipe in; every artefact, answers on ciphertexts and `report.json` out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from torusformer.fhe_compile import compile_plan, lower, plan, save_deployment, save_program
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.pipelines.answers import Deployed, InProcess
from torusformer.pipelines.console import noted_prices
from torusformer.pipelines.stages import Stages, write_report
from torusformer.pipelines.training import QONNX, Recipe, train_into
from torusformer.pipelines.values import to_integers
from torusformer.progress import Progress, track
from torusformer.quantize import predict

PROGRAM, DEPLOYMENT = "program.onnx", "deployment"


def run_end_to_end(
    folder: Path, recipe: Recipe, images: int, p_error: float = EXACT
) -> dict[str, Any]:
    """The whole way into `folder`; `images` held-out samples are answered encrypted."""
    task, stage = recipe.task, Stages()
    with stage("train", f"{recipe.preset} on {task.source}, {len(task.x_train)} samples"):
        trained = train_into(folder, recipe)
    with stage("lower", "QONNX graph to integer program"):
        program = lower(folder / QONNX, recipe.about())
        save_program(program, folder / PROGRAM)
        clear = InProcess(program)
        predicted = clear.classes(task.x_test)
        agreement = predicted == predict(trained.qat, task.x_test).argmax(axis=1)
    with stage("plan", "count bootstraps"):
        prices = noted_prices("demo", p_error)
        cost = plan(program, prices)
        print(cost.table(), file=sys.stderr)
    with stage("compile", f"{cost.pbs_total} bootstraps to a TFHE circuit"), Progress("compile"):
        circuit = compile_plan(cost)
        save_deployment(circuit, folder / DEPLOYMENT)
    with stage("keys", "the client makes them, the server gets those for evaluation"):
        deployed = Deployed(folder / DEPLOYMENT)
    with stage("execute", f"{images} held-out samples, encrypted"):
        (port,) = program.inputs
        samples = [{port.name: q_x} for q_x in to_integers(port, task.x_test[:images])]
        expected = [clear.call(q_x) for q_x in samples]
        waiting = track(samples, "execute", seconds=cost.predicted_seconds)
        answers = [deployed.answer(q_x) for q_x in waiting]
    rows = [
        {
            "label": task.labels[task.y_test[i]],
            "prediction": answer.prediction,
            "seconds": round(answer.seconds, 3),
            "bit_exact": answer.equals(expected[i]),
        }
        for i, answer in enumerate(answers)
    ]
    report = {
        "task": task.name,
        "preset": recipe.preset,
        "seed": recipe.training.seed,
        **trained.to_json(),
        "program_accuracy": float((predicted == task.y_test).mean()),
        "test_count": len(task.x_test),
        "agreement": float(agreement.mean()),
        "p_error": p_error,
        "plan": cost.to_json(),
        "execute": {
            "count": len(rows),
            "bit_exact": all(row["bit_exact"] for row in rows),
            "seconds": round(float(np.mean([row["seconds"] for row in rows])), 3),
            "evaluation_key_bytes": deployed.key_bytes,
            "rows": rows,
        },
    }
    return write_report(folder, report, stage)
