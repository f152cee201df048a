"""A recipe of a decoder in; every artefact, text written on ciphertexts and `report.json` out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from torusformer.fhe_compile.deployment.deployment import save_decoder_deployment
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.models.words import IGNORED, WordsTask, decode
from torusformer.pipelines.console import noted_prices
from torusformer.pipelines.decoder_plan import plan_decoder, plan_text, plan_to_json
from torusformer.pipelines.language import LanguageRecipe, program_nll, train_decoder_into
from torusformer.pipelines.stages import Stages, write_report
from torusformer.pipelines.writing import (
    Character,
    EncryptedWriting,
    Request,
    compile_decoder,
    text_of,
    write_clear,
)
from torusformer.progress import Progress
from torusformer.serving.writer import check_prompt

DEPLOYMENT = "deployment"
PROMPT_CHARACTERS = 2


def run_words(
    folder: Path, recipe: LanguageRecipe, prompts: int, count: int, p_error: float = EXACT
) -> dict[str, Any]:
    """The whole way into `folder`; behind `prompts` beginnings of held-out words, `count` tokens.

    The server writes alone. Every token is compared with the integer program's.
    """
    task, stage = recipe.task, Stages()
    check_prompt([0], count, task.context)  # before the wait
    with stage("train", f"{recipe.preset} on {task.source}, {len(task.train)} sequences"):
        trained = train_decoder_into(folder, recipe)
    with stage("check", "loss of the integer program on held-out sequences"):
        loss = program_nll(trained.program, task.dev)
    decoder = trained.program.with_picking()
    with stage("plan", "count bootstraps of every step"):
        planned = plan_decoder(decoder, noted_prices("demo", p_error))
        cost = plan_to_json(planned)
    print(plan_text(planned), file=sys.stderr)
    with stage("compile", f"{len(planned.functions)} functions to one TFHE module"):
        module = compile_decoder(decoder, p_error)
        save_decoder_deployment(module, folder / DEPLOYMENT)
    with stage("keys", "the client makes them, the server gets those for evaluation"):
        parties = EncryptedWriting(folder / DEPLOYMENT)
    rows: list[dict[str, Any]] = []
    with stage("write", f"{count} tokens behind each of {prompts} prompts, encrypted"):
        for i, text in enumerate(beginnings(task, prompts, count)):
            request = Request.of(decoder, text, count, temperature=0.0, seed=i)
            expected = list(write_clear(decoder, request))
            steps = cost["steps"][len(request.tokens) - 1 :][:count]
            guess = sum(step["predicted_seconds"] for step in steps)
            written = show(parties, request, f"write {text!r}", guess)
            rows.append(
                {
                    "prompt": text,
                    "text": text_of(written, task.labels),
                    "expected": text_of(expected, task.labels),
                    "tokens": [c.token for c in written],
                    "identical": [c.token for c in written] == [c.token for c in expected],
                    "seconds": [round(c.seconds, 3) for c in written],
                }
            )
    report = {
        "task": task.name,
        "source": Path(task.source).name,
        "preset": recipe.preset,
        "seed": recipe.training.seed,
        **trained.to_json(),
        "program_nll": round(loss, 4),
        "dev_tokens": task.dev.count,
        "p_error": p_error,
        "plan": cost,
        "generate": {
            "context": task.context,
            "tokens": sum(len(row["tokens"]) for row in rows),
            "seconds_per_token": round(float(np.mean([row["seconds"] for row in rows])), 3),
            "identical": all(row["identical"] for row in rows),
            "keygen_seconds": round(parties.keygen_seconds, 1),
            "key_bytes": parties.key_bytes,
            "rows": rows,
        },
    }
    return write_report(folder, report, stage)


def show(
    parties: EncryptedWriting, request: Request, label: str, seconds: float
) -> list[Character]:
    """What was written, a token at a time on a progress bar."""
    count = len(request.noises)
    written: list[Character] = []
    with Progress(label, total=count, seconds=seconds) as bar:
        for character in parties.write(request):
            written.append(character)
            bar.advance(f"{character.character!r} in {character.seconds:.1f} s")
    return written


def beginnings(task: WordsTask, prompts: int, count: int) -> list[str]:
    """Of the first held-out sequences, each a different one, as the context allows."""
    longest = max(0, min(PROMPT_CHARACTERS, task.context - count))
    found: list[str] = []
    for tokens, targets in zip(task.dev.tokens, task.dev.targets, strict=True):
        known = int((targets != IGNORED).sum())
        text = decode(tokens[1:known][:longest].tolist(), task.labels)
        if text not in found:
            found.append(text)
        if len(found) == prompts:
            break
    return found
