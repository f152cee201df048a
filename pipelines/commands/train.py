"""`torusformer train`: a task in; float model, QAT model and QONNX graph out."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.console import Outcome, Subparsers, command, natural, percent, positive
from torusformer.folders import output_folder

DEFAULT_PRESET = "digits-small"


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "train",
        "train a float transformer and its quantized twin, and export the QONNX graph",
        "torusformer train --task digits --preset digits-small --out runs/train",
    )
    parser.add_argument("--task", default="digits", metavar="NAME", help="digits")
    add_training_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    return parser


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What `demo` takes too."""
    parser.add_argument(
        "--preset", default=DEFAULT_PRESET, metavar="NAME", help=f"default {DEFAULT_PRESET}"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="your samples: .npz with x and y, .csv with label"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default 0")
    parser.add_argument("--epochs", type=positive, metavar="N", help="of each of the two trainings")


def run(args: argparse.Namespace) -> Outcome:
    """Train both models."""
    with output_folder(args.out, "training") as folder:
        from pipelines.training import Recipe, train_into

        recipe = Recipe.from_name(
            args.task, args.preset, data=args.data, seed=args.seed, epochs=args.epochs
        )
        trained = train_into(folder, recipe)
    data = {
        "task": args.task,
        "preset": args.preset,
        **trained.to_json(),
        "test_count": len(recipe.task.x_test),
        "out": str(args.out),
    }
    text = (
        f"{args.out}: float {percent(trained.float_accuracy)}, quantized "
        f"{percent(trained.qat_accuracy)} of {len(recipe.task.x_test)} held-out samples"
    )
    return Outcome(data, text)
