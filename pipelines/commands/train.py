"""`torusformer train`: a task in; float model, QAT model and QONNX graph out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.console import Outcome, Subparsers, command, natural, percent, positive
from torusformer.folders import output_folder

if TYPE_CHECKING:
    from pipelines.training import Recipe

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
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--preset", default=DEFAULT_PRESET, metavar="NAME", help=f"default {DEFAULT_PRESET}"
    )
    what.add_argument(
        "--config", type=Path, metavar="FILE", help="in place of a preset: one of tune's configs/"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="your samples: .npz with x and y, .csv with label"
    )
    parser.add_argument(
        "--seed", type=natural, metavar="N", help="default 0, or that of the --config"
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="of each of the two trainings")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """What the arguments of `add_training_arguments` ask for."""
    from pipelines.settings import Settings
    from pipelines.training import Recipe

    settings = Settings.load(args.config) if args.config else Settings.from_name(args.preset)
    settings = settings.train_with(seed=args.seed, epochs=args.epochs)
    return Recipe.from_settings(args.task, settings, data=args.data)


def run(args: argparse.Namespace) -> Outcome:
    """Train both models."""
    with output_folder(args.out, "training") as folder:
        from pipelines.training import train_into

        recipe = recipe_of(args)
        trained = train_into(folder, recipe)
    data = {
        "task": args.task,
        "preset": recipe.preset,
        **trained.to_json(),
        "test_count": len(recipe.task.x_test),
        "out": str(args.out),
    }
    text = (
        f"{args.out}: float {percent(trained.float_accuracy)}, quantized "
        f"{percent(trained.qat_accuracy)} of {len(recipe.task.x_test)} held-out samples"
    )
    return Outcome(data, text)
