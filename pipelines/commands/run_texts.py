"""What `torusformer run` does with texts: the shortest length that each fits answers it."""

from __future__ import annotations

import argparse
from textwrap import shorten
from typing import TYPE_CHECKING, Any, cast

from torusformer import InputError
from torusformer.pipelines.commands.run_faults import with_faults
from torusformer.pipelines.console import Outcome, percent, size
from torusformer.tables import table

if TYPE_CHECKING:
    from torusformer.fhe_compile.circuit.circuit import Mode
    from torusformer.pipelines.answers import Answer, Faulty
    from torusformer.pipelines.sentences import Sentences


def run_texts(args: argparse.Namespace, mode: Mode) -> Outcome:
    """Classify the texts of the command line, or held-out ones of a task."""
    if args.integers:
        raise InputError("--integers is not for texts; give --input, or leave it out")

    from torusformer.fhe_compile.prices.failure import parse_p_error
    from torusformer.pipelines.sentences import of_deployment, of_programs

    if args.deployment:
        sentences = of_deployment(args.deployment, args.trust, args.tokenizer, args.jobs)
    else:
        p_error = parse_p_error(args.faults or args.p_error)
        seed = args.seed if args.faults else None
        sentences = of_programs(args.program, mode, p_error, args.tokenizer, faults=seed)
    texts, truth = (args.text, None) if args.text else _held_out(args)
    rows = [sentences.ids(text, truncate=args.truncate) for text in texts]
    answers, seconds = sentences.answer_all(rows, f"run --fhe {mode}")
    results = [
        {"text": text, **answer.to_json()} for text, answer in zip(texts, answers, strict=True)
    ]
    expected: list[Answer] = []
    if args.program and (mode != "disable" or args.faults):
        clear = of_programs(args.program, tokenizer=args.tokenizer)
        expected = [clear.answer(ids).answer for ids in rows]
        for result, answer, right in zip(results, answers, expected, strict=True):
            result["bit_exact"] = answer.answer.equals(right.q_y)
    outcome = _outcome(sentences, mode, results, seconds, truth)
    if args.faults:
        models = [sentences.of_length(answer.length) for answer in answers]
        return with_faults(outcome, cast("list[Faulty]", models), expected, truth)
    return outcome


def _held_out(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Held-out texts of the user's file, and their labels."""
    from torusformer.models.sentiment import held_out

    if args.data is None and args.test is None:
        raise InputError(f"the task {args.task} has no texts of its own; give --data or --test")
    found = held_out(args.data, args.test)
    return list(found.texts[: args.count]), list(found.labels[: args.count])


def _outcome(
    sentences: Sentences,
    mode: str,
    results: list[dict[str, Any]],
    seconds: float,
    truth: list[str] | None,
) -> Outcome:
    data: dict[str, Any] = {
        "fhe": mode,
        "count": len(results),
        "lengths": list(sentences.lengths),
        "jobs": sentences.jobs,
        "wall_seconds": round(seconds, 4),
        "results": results,
    }
    columns: dict[str, list[object]] = {
        "text": [shorten(r["text"], 50) for r in results],
        "pieces": [r["pieces"] for r in results],
        "length": [r["length"] for r in results],
        "prediction": [r["prediction"] for r in results],
        "seconds": [f"{r['seconds']:.3f}" for r in results],
    }
    text = ""
    if "request_bytes" in results[0]:
        columns["request"] = [size(r["request_bytes"]) for r in results]
        columns["reply"] = [size(r["reply_bytes"]) for r in results]
        data["evaluation_key_bytes"] = sentences.key_bytes
        text += f"\nevaluation keys {size(sentences.key_bytes or 0)}, sent once"
    if "bit_exact" in results[0]:
        columns["bit-exact"] = ["yes" if r["bit_exact"] else "NO" for r in results]
    if truth is not None:
        columns["label"] = list(truth)
        right = sum(r["prediction"] == label for r, label in zip(results, truth, strict=True))
        data["accuracy"] = right / len(truth)
        text += f"\n{percent(data['accuracy'])} of {len(truth)} right"
    rows = list(zip(*columns.values(), strict=True))
    return Outcome(data, table(list(columns), rows) + text)
