"""The demo of a classifier of texts: several lengths of one model, one set of keys."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from torusformer.fhe_compile import lower, save_program
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.models.task import LabelArray
from torusformer.pipelines.answers import InProcess
from torusformer.pipelines.baselines import compared
from torusformer.pipelines.console import percent, size
from torusformer.pipelines.demo import DEPLOYMENT, Demo
from torusformer.pipelines.lengths import compile_lengths, lengths_to_json, plan_lengths
from torusformer.pipelines.sentences import Sentences, of_deployment
from torusformer.pipelines.text_parties import TextAnswer
from torusformer.pipelines.training import Recipe, Trained
from torusformer.progress import track
from torusformer.quantize import predict
from torusformer.tables import table

MOST_COMPARED = 50  # texts of which all lengths are asked


class SentencesDemo(Demo):
    """`count` held-out texts are answered encrypted, of one length after the other."""

    checking = ("lower", "QONNX graphs to integer programs, one a length")

    def __init__(self, recipe: Recipe, count: int) -> None:
        super().__init__(recipe)
        self.count = count
        task = recipe.task
        assert task.tokenizer is not None, "a task of texts has one"
        self.tokenizer = task.tokenizer
        self.rows = [row[row != task.padding].tolist() for row in task.x_test]

    def check(self, folder: Path, trained: Trained) -> dict[str, Any]:
        """Accuracy by the length that each text takes, and whether all lengths say the same."""
        task = self.recipe.task
        programs = {
            length: lower(folder / name, self.recipe.about())
            for length, name in self.recipe.graphs().items()
        }
        for length, program in programs.items():
            save_program(program, folder / f"program.{length}.onnx")
        self.programs = programs
        self.clear = Sentences(self.tokenizer, tuple(programs), lambda n: InProcess(programs[n]))
        found = [_logits(self.clear.answer(ids)) for ids in track(self.rows, "held-out texts")]
        predicted: LabelArray = np.array([logits.argmax() for logits in found], np.int64)
        agreement = predicted == predict(trained.qat, task.x_test).argmax(axis=1)
        return {
            "program_accuracy": float((predicted == task.y_test).mean()),
            "test_count": len(task.x_test),
            "agreement": float(agreement.mean()),
            "lengths": list(programs),
            "lengths_agree": self._lengths_agree(),
        }

    def _lengths_agree(self) -> float:
        """Share of texts of which every length that they fit gives the same logits."""
        shortest, *longer = self.clear.lengths
        rows = [ids for ids in self.rows if len(ids) <= shortest][:MOST_COMPARED]
        same = [
            all(
                np.allclose(_logits(self.clear.answer(ids)), _logits(self.clear.answer(ids, n)))
                for n in longer
            )
            for ids in track(rows, "compare lengths")
        ]
        return float(np.mean(same)) if same else 1.0

    def plan(self, prices: PriceList) -> dict[str, Any]:
        """Of the longest, and in short of each."""
        self.planned, self.plans = plan_lengths(self.programs, prices, prices.p_error)
        print(self.plans[max(self.plans)].table(), file=sys.stderr)
        return lengths_to_json(self.plans)

    def compile(self, folder: Path) -> None:
        """One module: a function a length, under one set of keys."""
        compile_lengths(self.planned, folder / DEPLOYMENT, self.tokenizer)

    def make_keys(self, folder: Path) -> None:
        """Client and server in this process, of every length."""
        self.deployed = of_deployment(folder / DEPLOYMENT)
        for length in self.deployed.lengths:
            self.deployed.of_length(length)
        self.deployed.answer(min(self.rows, key=len))  # the server reads its keys at the first

    def answer(self) -> dict[str, Any]:
        """Of the first held-out texts of each length, in turn."""
        task, rows = self.recipe.task, []
        for i in track(self._asked(), "execute"):
            ids = self.rows[i]
            answer, expected = self.deployed.answer(ids), self.clear.answer(ids)
            rows.append(
                {
                    "text": " ".join(self.tokenizer.vocabulary[token] for token in ids),
                    "label": task.labels[task.y_test[i]],
                    "prediction": answer.answer.prediction,
                    "pieces": answer.pieces,
                    "length": answer.length,
                    "seconds": round(answer.answer.seconds, 3),
                    "request_bytes": answer.request_bytes,
                    "reply_bytes": answer.reply_bytes,
                    "bit_exact": answer.answer.equals(expected.answer.q_y),
                }
            )
        by_length = {str(n): [row for row in rows if row["length"] == n] for n in self.plans}
        execute = {
            "count": len(rows),
            "bit_exact": all(row["bit_exact"] for row in rows),
            "seconds": round(float(np.mean([row["seconds"] for row in rows])), 3),
            "evaluation_key_bytes": self.deployed.key_bytes,
            "rows": rows,
        }
        found = {n: chosen for n, chosen in by_length.items() if chosen}
        return {
            "execute": execute,
            "seconds_by_length": {
                n: round(float(np.mean([row["seconds"] for row in chosen])), 3)
                for n, chosen in found.items()
            },
            "bytes_by_length": {
                n: {name: chosen[0][f"{name}_bytes"] for name in ("request", "reply")}
                for n, chosen in found.items()
            },
        }

    def _asked(self) -> list[int]:
        """Which held-out texts, of one length after the other."""
        of = [self.clear.length_for(len(ids)) for ids in self.rows]
        by_length = [[i for i, n in enumerate(of) if n == length] for length in self.plans]
        turns = range(max(map(len, by_length)))
        return [rows[turn] for turn in turns for rows in by_length if turn < len(rows)][
            : self.count
        ]

    def text(self, report: dict[str, Any]) -> str:
        """A row a text, and one a length."""
        head = ("text", "label", "prediction", "length", "seconds", "bit-exact")
        rows = [
            (shorten(r["text"], 40), r["label"], r["prediction"], r["length"],
             f"{r['seconds']:.1f}", "yes" if r["bit_exact"] else "NO")
            for r in report["execute"]["rows"]
        ]  # fmt: skip
        costs = [
            (int(n), made["pbs_total"], f"{made['predicted_seconds']:.1f}",
             f"{report['seconds_by_length'][n]:.1f}" if n in report["seconds_by_length"] else "-",
             *(size(report["bytes_by_length"][n][name]) if n in report["bytes_by_length"] else "-"
               for name in ("request", "reply")))
            for n, made in report["plan"]["by_length"].items()
        ]  # fmt: skip
        of = ("length", "bootstraps", "predicted s", "measured s", "request", "reply")
        agree = report["lengths_agree"]
        same = "yes" if agree == 1 else f"NO, {percent(agree)}"
        return (
            f"{table(head, rows)}\n\n{table(of, costs)}\n\n"
            f"of {report['test_count']} held-out texts: "
            f"float {percent(report['float_accuracy'])}, "
            f"quantized {percent(report['qat_accuracy'])}, "
            f"integer programs {percent(report['program_accuracy'])} "
            f"(same class as quantized: {percent(report['agreement'])})\n"
            f"all lengths give the same logits: {same}\n"
            f"{compared(report)}\n"
            f"evaluation keys {size(report['execute']['evaluation_key_bytes'])}, sent once"
        )


def _logits(answer: TextAnswer) -> np.ndarray[Any, np.dtype[np.float64]]:
    (logits,) = answer.answer.reals.values()
    return logits
