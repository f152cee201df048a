"""The demo of a classifier: held-out samples in, classes on ciphertexts out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from torusformer.fhe_compile import lower, plan, save_deployment, save_program
from torusformer.fhe_compile.circuit.circuit import compile_plan
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.pipelines.answers import Deployed, InProcess
from torusformer.pipelines.baselines import compared
from torusformer.pipelines.console import percent
from torusformer.pipelines.demo import DEPLOYMENT, PROGRAM, Demo
from torusformer.pipelines.training import QONNX, Recipe, Trained
from torusformer.pipelines.values import to_integers
from torusformer.progress import Progress, track
from torusformer.quantize import predict
from torusformer.tables import table


class ClassesDemo(Demo):
    """`count` held-out samples are answered encrypted."""

    checking = ("lower", "QONNX graph to integer program")

    def __init__(self, recipe: Recipe, count: int) -> None:
        super().__init__(recipe)
        self.count = count

    def check(self, folder: Path, trained: Trained) -> dict[str, Any]:
        """Accuracy, and how often it is the quantized model's class."""
        task = self.recipe.task
        self.program = lower(folder / QONNX, self.recipe.about())
        save_program(self.program, folder / PROGRAM)
        self.clear = InProcess(self.program)
        predicted = self.clear.classes(task.x_test)
        agreement = predicted == predict(trained.qat, task.x_test).argmax(axis=1)
        return {
            "program_accuracy": float((predicted == task.y_test).mean()),
            "test_count": len(task.x_test),
            "agreement": float(agreement.mean()),
        }

    def plan(self, prices: PriceList) -> dict[str, Any]:
        """Of the one program."""
        self.planned = plan(self.program, prices)
        print(self.planned.table(), file=sys.stderr)
        return self.planned.to_json()

    def compile(self, folder: Path) -> None:
        """One circuit."""
        with Progress("compile"):
            save_deployment(compile_plan(self.planned), folder / DEPLOYMENT)

    def make_keys(self, folder: Path) -> None:
        """Client and server in this process."""
        self.deployed = Deployed(folder / DEPLOYMENT)

    def answer(self) -> dict[str, Any]:
        """Of the first held-out samples."""
        task, (port,) = self.recipe.task, self.program.inputs
        samples = [{port.name: q_x} for q_x in to_integers(port, task.x_test[: self.count])]
        expected = [self.clear.call(q_x) for q_x in samples]
        waiting = track(samples, "execute", seconds=self.planned.predicted_seconds)
        rows = [
            {
                "label": task.labels[task.y_test[i]],
                "prediction": answer.prediction,
                "seconds": round(answer.seconds, 3),
                "bit_exact": answer.equals(expected[i]),
            }
            for i, answer in enumerate(map(self.deployed.answer, waiting))
        ]
        execute = {
            "count": len(rows),
            "bit_exact": all(row["bit_exact"] for row in rows),
            "seconds": round(float(np.mean([row["seconds"] for row in rows])), 3),
            "evaluation_key_bytes": self.deployed.key_bytes,
            "rows": rows,
        }
        return {"execute": execute}

    def text(self, report: dict[str, Any]) -> str:
        """A row a sample."""
        head = ("label", "prediction", "seconds", "bit-exact with the integer program")
        rows = [
            (r["label"], r["prediction"], f"{r['seconds']:.1f}", "yes" if r["bit_exact"] else "NO")
            for r in report["execute"]["rows"]
        ]
        return (
            f"{table(head, rows)}\n\n"
            f"of {report['test_count']} held-out samples: "
            f"float {percent(report['float_accuracy'])}, "
            f"quantized {percent(report['qat_accuracy'])}, "
            f"integer program {percent(report['program_accuracy'])} "
            f"(same class as quantized: {percent(report['agreement'])})\n"
            f"{compared(report)}\n"
            f"{report['plan']['pbs_total']} bootstraps, predicted "
            f"{report['plan']['predicted_seconds']:.1f} s, measured "
            f"{report['execute']['seconds']:.1f} s a sample"
        )
