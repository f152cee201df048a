"""`torusformer distill`: a float teacher and a preset in; a student narrowed step by step out."""

from __future__ import annotations

import argparse
import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torusformer.pipelines.commands.train import add_training_arguments, measured, recipe_of
from torusformer.pipelines.console import Outcome, Subparsers, command, natural, positive
from torusformer.tables import table

if TYPE_CHECKING:
    from torusformer.pipelines.training import Recipe

WIDEST, NARROWEST = 12, 2  # bits of a step
DIRECT = "none"


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "distill",
        "teach a small transformer what a float one knows, then narrow it step by step to the bits "
        "of a preset; the same command goes on after an interruption",
        "torusformer distill --teacher runs/float --task digits --preset digits-fast --out "
        "runs/student",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        required=True,
        metavar="DIR",
        help="what import, train, demo or distill wrote; a head is trained if it has none",
    )
    parser.add_argument(
        "--task", default="digits", metavar="NAME", help="digits, images, words or sentiment"
    )
    add_training_arguments(parser)
    parser.add_argument(
        "--stages",
        type=falling_bits,
        default=(4, 3),
        metavar="B,B",
        help=f"bits of the steps between float and the preset, default 4,3; or {DIRECT}",
    )
    parser.add_argument(
        "--teacher-epochs",
        type=positive,
        default=5,
        metavar="N",
        help="of a teacher without a head for the task, default 5",
    )
    parser.add_argument(
        "--hidden",
        type=weight,
        default=1.0,
        metavar="W",
        help="weight of the teacher's hidden states beside its answers, default 1; 0 for none",
    )
    parser.add_argument(
        "--attention", type=weight, default=1.0, metavar="W", help="that of its attention's scores"
    )
    parser.add_argument(
        "--texts",
        type=natural,
        default=120_000,
        metavar="N",
        help="of a text task: so many are made of parts of those given, for the teacher to answer; "
        "default 120000",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, or to go on")
    return parser


def falling_bits(text: str) -> tuple[int, ...]:
    """An argument that names steps: 4,3."""
    if text == DIRECT:
        return ()
    bits = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    falling = all(a > b for a, b in pairwise(bits))
    if not (falling and bits[0] <= WIDEST and bits[-1] >= NARROWEST):
        raise argparse.ArgumentTypeError(
            f"{text!r} are no falling bits from {WIDEST} to {NARROWEST}, say 4,3, or {DIRECT}"
        )
    return tuple(bits)


def weight(text: str) -> float:
    """An argument that weighs a part of a loss."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a weight from 0 up, say 1")
    return value


def run(args: argparse.Namespace) -> Outcome:
    """Distil, or go on, and report."""
    from torusformer.models.tasks import OF_TEXTS
    from torusformer.pipelines.distilling import How, distill
    from torusformer.pipelines.kept_folder import Kind, kept_folder
    from torusformer.pipelines.teachers import digest, find_teacher

    found = find_teacher(args.teacher)
    if args.task in OF_TEXTS and args.tokenizer is None:
        args.tokenizer = args.teacher  # import leaves it there
    recipe = recipe_of(args)
    found.ready(recipe.task)  # what does not go together is refused before a folder is made
    how = How(args.stages, args.teacher_epochs, args.hidden, args.attention, args.texts)
    asked = {
        "teacher": digest(args.teacher),
        "task": args.task,
        "data": args.data and hashlib.sha256(args.data.read_bytes()).hexdigest(),
        "test": args.test and hashlib.sha256(args.test.read_bytes()).hexdigest(),
        "tokenizer": recipe.task.tokenizer and recipe.task.tokenizer.digest,
        "texts": how.texts,
        "model": recipe.model.to_dict(),
        "quant": recipe.quant.to_dict(),
        "training": recipe.training.to_dict(),
        "stages": list(how.steps),
        "teacher_epochs": how.teacher_epochs,
        "hidden": how.hidden_weight,
        "attention": how.attention_weight,
    }
    kind = Kind("distillation", "distill", "distillation.json", ("stages",))
    try:
        with kept_folder(args.out, kind, asked) as folder:
            report = distill(folder, found, recipe, how)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; {args.out} keeps the stages that are done, the same command goes on"
        ) from None
    return Outcome({**report, "out": str(args.out)}, _text(report, recipe, args.out))


def _text(report: dict[str, Any], recipe: Recipe, out: Path) -> str:
    """A row a stage, and what it has to beat."""
    from torusformer.pipelines.baselines import ON_COUNTS
    from torusformer.pipelines.training import MEASURES

    task = recipe.task
    program = report.get(MEASURES[task.measure][2])
    rows = [
        (
            s["stage"],
            s["widths"],
            s["epochs"] or "",
            measured(task.measure, s["held_out"]),
            measured(task.measure, s["training"]),
            f"{s['seconds']:.0f} s" if s["epochs"] else "",
        )
        for s in report["stages"]
    ]
    if program is not None:
        cost = report["plan"]
        about = f"{cost['pbs_total']:,} bootstraps, {cost['predicted_seconds']:.1f} s predicted"
        rows.append(("program", about, "", measured(task.measure, program), "", ""))
    names = {"linear": "a linear model" if task.measure == "accuracy" else "counts of pairs"}
    names["mlp"] = f"an MLP of {report['plan'].get('pbs_total', 0):,} bootstraps"
    names[ON_COUNTS] = f"a {ON_COUNTS}"
    for name, value in report["baselines"].items():
        rows.append(("beside it", names[name], "", measured(task.measure, value), "", ""))
    head = ("stage", "", "epochs", "held out", "training", "took")
    lines = [
        table(head, rows, right=(2, 3, 4, 5)),
        "",
        f"held out: {report['test_count']:,} {'samples' if program is not None else 'tokens'}",
        _layers(report["layers"]),
    ]
    if program is not None:
        lines.append(f"torusformer lower {out}/{recipe.graph} --out program.onnx goes on")
    return "\n".join([*lines, f"everything is in {out}"])


def _layers(layers: dict[str, list[list[int]]]) -> str:
    """What was learned besides answers, student's layer to teacher's."""
    told = [
        f"{what} of layers " + ", ".join(f"{ours}-{theirs}" for ours, theirs in pairs)
        for what, pairs in layers.items()
        if pairs
    ]
    return f"learned besides answers, student's layer to teacher's: {'; '.join(told) or 'nothing'}"
