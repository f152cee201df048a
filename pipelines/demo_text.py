"""The demo of a model that writes: beginnings of held-out words in, encrypted text out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from torusformer.fhe_compile.circuit.circuit import compile_functions
from torusformer.fhe_compile.deployment.deployment import save_decoder_deployment
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.models import Task
from torusformer.models.task import UNKNOWN
from torusformer.models.words import decode
from torusformer.pipelines.baselines import compared
from torusformer.pipelines.console import size
from torusformer.pipelines.decoder_plan import plan_decoder, plan_text, plan_to_json
from torusformer.pipelines.demo import DEPLOYMENT, Demo
from torusformer.pipelines.measure import program_nll
from torusformer.pipelines.training import Recipe, Trained
from torusformer.pipelines.writing import (
    Character,
    EncryptedWriting,
    Request,
    text_of,
    write_clear,
)
from torusformer.progress import Progress
from torusformer.serving.writer import check_prompt
from torusformer.tables import table

PROMPT_CHARACTERS = 2


class TextDemo(Demo):
    """Behind `prompts` beginnings of held-out words the server writes `count` tokens, alone.

    Every token is compared with the integer program's.
    """

    checking = ("check", "loss of the integer program on held-out sequences")
    planning = ("plan", "count bootstraps of every step")
    compiling = ("compile", "all steps to one TFHE module")
    answering = ("write", "tokens behind each prompt, encrypted")

    def __init__(self, recipe: Recipe, prompts: int, count: int) -> None:
        check_prompt([0], count, recipe.model.tokens)  # before the wait
        super().__init__(recipe)
        self.prompts, self.count = prompts, count

    def check(self, folder: Path, trained: Trained) -> dict[str, Any]:
        """Nats a token."""
        assert trained.program is not None
        task = self.recipe.task
        self.decoder = trained.program.with_picking()
        loss = program_nll(trained.program, task.x_test, task.y_test)
        return {"program_nll": round(loss, 4), "dev_tokens": task.test_count}

    def plan(self, prices: PriceList) -> dict[str, Any]:
        """Of every step."""
        self.planned = plan_decoder(self.decoder, prices)
        print(plan_text(self.planned), file=sys.stderr)
        self.cost = plan_to_json(self.planned)
        return self.cost

    def compile(self, folder: Path) -> None:
        """One module."""
        with Progress("compile"):
            module = compile_functions(self.planned)
        save_decoder_deployment(module, folder / DEPLOYMENT)

    def make_keys(self, folder: Path) -> None:
        """Client and server in this process."""
        self.parties = EncryptedWriting(folder / DEPLOYMENT)

    def answer(self) -> dict[str, Any]:
        """Text behind each beginning."""
        beginnings = first_words(self.recipe.task, self.prompts, self.count)
        rows = [self._written(text, seed) for seed, text in enumerate(beginnings)]
        generate = {
            "context": self.recipe.model.tokens,
            "tokens": sum(len(row["tokens"]) for row in rows),
            "seconds_per_token": round(float(np.mean([row["seconds"] for row in rows])), 3),
            "identical": all(row["identical"] for row in rows),
            "keygen_seconds": round(self.parties.keygen_seconds, 1),
            "key_bytes": self.parties.key_bytes,
            "rows": rows,
        }
        return {"generate": generate}

    def _written(self, text: str, seed: int) -> dict[str, Any]:
        labels = self.recipe.task.labels
        request = Request.of(self.decoder, text, self.count, temperature=0.0, seed=seed)
        expected = list(write_clear(self.decoder, request))
        steps = self.cost["steps"][len(request.tokens) - 1 :][: self.count]
        guess = sum(step["predicted_seconds"] for step in steps)
        written = show(self.parties, request, f"write {text!r}", guess)
        return {
            "prompt": text,
            "text": text_of(written, labels),
            "expected": text_of(expected, labels),
            "tokens": [c.token for c in written],
            "identical": [c.token for c in written] == [c.token for c in expected],
            "seconds": [round(c.seconds, 3) for c in written],
        }

    def text(self, report: dict[str, Any]) -> str:
        """A row a prompt."""
        made = report["generate"]
        head = ("prompt", "encrypted text", "seconds a token", "identical with the integer program")
        rows = [
            (
                row["prompt"],
                row["prompt"] + row["text"],
                f"{sum(row['seconds']) / len(row['seconds']):.1f}",
                "yes" if row["identical"] else "NO",
            )
            for row in made["rows"]
        ]
        return (
            f"{table(head, rows)}\n\n"
            f"nats a token on {report['dev_tokens']} held-out ones: float "
            f"{report['teacher_nll']:.3f}, quantized {report['qat_nll']:.3f}, integer program "
            f"{report['program_nll']:.3f}\n"
            f"{compared(report)}\n"
            f"{made['tokens']} tokens, {made['seconds_per_token']:.1f} s each, argmax included; "
            f"keys made in {made['keygen_seconds']:.1f} s, {size(made['key_bytes'])} sent once"
        )


def show(
    parties: EncryptedWriting, request: Request, label: str, seconds: float
) -> list[Character]:
    """What was written, a token at a time on a progress bar."""
    written: list[Character] = []
    with Progress(label, total=len(request.noises), seconds=seconds) as bar:
        for character in parties.write(request):
            written.append(character)
            bar.advance(f"{character.character!r} in {character.seconds:.1f} s")
    return written


def first_words(task: Task, prompts: int, count: int) -> list[str]:
    """Beginnings of the first held-out sequences, each a different one, as the context allows."""
    longest = max(0, min(PROMPT_CHARACTERS, task.input_shape[0] - count))
    found: list[str] = []
    for tokens, targets in zip(task.x_test, task.y_test, strict=True):
        known = int((targets != UNKNOWN).sum())
        text = decode(tokens[1:known][:longest].tolist(), task.labels)
        if text not in found:
            found.append(text)
        if len(found) == prompts:
            break
    return found
