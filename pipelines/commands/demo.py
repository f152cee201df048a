"""`torusformer demo`: the whole way, from a data set to answers on ciphertexts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.commands.train import add_training_arguments, recipe_of
from pipelines.console import Outcome, Subparsers, add_p_error, command, percent, positive, table
from torusformer.folders import output_folder


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "demo",
        "train, lower, plan, compile, and answer held-out samples on ciphertexts",
        "torusformer demo digits --preset digits-small --out runs/digits",
    )
    parser.add_argument("task", metavar="TASK", help="digits")
    add_training_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default runs/TASK")
    parser.add_argument(
        "--images", type=positive, default=3, metavar="N", help="encrypted samples, default 3"
    )
    add_p_error(parser)
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Do all of it and report."""
    out = args.out or Path("runs") / args.task
    with output_folder(out, "run") as folder:
        from fhe_compile.failure import parse_p_error
        from pipelines.endtoend import run_end_to_end

        report = run_end_to_end(folder, recipe_of(args), args.images, parse_p_error(args.p_error))
    return Outcome(report, _text(report, out))


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
