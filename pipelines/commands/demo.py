"""`torusformer demo`: the whole way, from a data set to answers on ciphertexts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torusformer.folders import output_folder
from torusformer.pipelines.commands.train import (
    WORDS,
    add_training_arguments,
    language_recipe_of,
    recipe_of,
)
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    add_p_error,
    command,
    percent,
    positive,
    size,
)
from torusformer.tables import table


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "demo",
        "train, lower, plan, compile, and answer held-out samples on ciphertexts",
        "torusformer demo digits --preset digits-small --out runs/digits",
    )
    parser.add_argument("task", metavar="TASK", help="digits or words")
    add_training_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default runs/TASK")
    parser.add_argument(
        "--images", type=positive, default=3, metavar="N", help="encrypted samples, default 3"
    )
    parser.add_argument(
        "--prompts", type=positive, default=3, metavar="N", help="of words: prompts, default 3"
    )
    parser.add_argument(
        "--tokens", type=positive, default=8, metavar="N", help="of words: written, default 8"
    )
    add_p_error(parser)
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Do all of it and report."""
    out = args.out or Path("runs") / args.task
    if args.task == WORDS:
        return _run_words(args, out)
    with output_folder(out, "run") as folder:
        from torusformer.fhe_compile.prices.failure import parse_p_error
        from torusformer.pipelines.endtoend import run_end_to_end

        report = run_end_to_end(folder, recipe_of(args), args.images, parse_p_error(args.p_error))
    return Outcome(report, _text(report, out))


def _run_words(args: argparse.Namespace, out: Path) -> Outcome:
    with output_folder(out, "run") as folder:
        from torusformer.fhe_compile.prices.failure import parse_p_error
        from torusformer.pipelines.words_demo import run_words

        p_error = parse_p_error(args.p_error)
        report = run_words(folder, language_recipe_of(args), args.prompts, args.tokens, p_error)
    return Outcome(report, _words_text(report, out))


def _words_text(report: dict[str, Any], out: Path) -> str:
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
        f"{made['tokens']} tokens, {made['seconds_per_token']:.1f} s each, argmax included; keys "
        f"made in {made['keygen_seconds']:.1f} s, {size(made['key_bytes'])} sent once\n"
        f"everything is in {out}"
    )


def _text(report: dict[str, Any], out: Path) -> str:
    head = ("label", "prediction", "seconds", "bit-exact with the integer program")
    rows = [
        (r["label"], r["prediction"], f"{r['seconds']:.1f}", "yes" if r["bit_exact"] else "NO")
        for r in report["execute"]["rows"]
    ]
    return (
        f"{table(head, rows)}\n\n"
        f"of {report['test_count']} held-out samples: float {percent(report['float_accuracy'])}, "
        f"quantized {percent(report['qat_accuracy'])}, "
        f"integer program {percent(report['program_accuracy'])} "
        f"(same class as quantized: {percent(report['agreement'])})\n"
        f"{report['plan']['pbs_total']} bootstraps, predicted "
        f"{report['plan']['predicted_seconds']:.1f} s, measured "
        f"{report['execute']['seconds']:.1f} s a sample\n"
        f"everything is in {out}"
    )
