"""`torusformer train`: a task in; float model, QAT model and QONNX graph out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer.folders import output_folder
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    add_samples,
    add_texts,
    command,
    natural,
    percent,
    positive,
)

if TYPE_CHECKING:
    from torusformer.models.sentiment import TextOptions
    from torusformer.pipelines.settings import Settings
    from torusformer.pipelines.training import Recipe


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "train",
        "train a float transformer and its quantized twin, and export the QONNX graph",
        "torusformer train --task digits --preset digits-small --out runs/train",
    )
    parser.add_argument(
        "--task", default="digits", metavar="NAME", help="digits, images, words or sentiment"
    )
    add_training_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    return parser


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What `demo` takes too."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", metavar="NAME", help="default: the one that goes with the task")
    what.add_argument(
        "--config", type=Path, metavar="FILE", help="in place of a preset: one of tune's configs/"
    )
    add_samples(
        parser, "; for words a word a line, or text; for sentiment .tsv, .csv or .jsonl of texts"
    )
    add_texts(parser)
    parser.add_argument(
        "--context", type=positive, metavar="N", help="of words, texts: most tokens of one"
    )
    parser.add_argument(
        "--seed", type=natural, metavar="N", help="default 0, or that of the --config"
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="of each of the two trainings")


def texts_of(args: argparse.Namespace) -> TextOptions | None:
    """What the arguments of `add_texts` say; None where none is given."""
    from torusformer.models.sentiment import TextOptions

    options = TextOptions(args.test, args.tokenizer, args.template)
    return None if options == TextOptions() else options


def recipe_of(args: argparse.Namespace) -> Recipe:
    """What the arguments of `add_training_arguments` ask for."""
    from torusformer.models.tasks import default_preset
    from torusformer.pipelines.settings import Settings
    from torusformer.pipelines.training import Recipe

    preset = args.preset or default_preset(args.task)
    settings = Settings.load(args.config) if args.config else Settings.from_name(preset)
    settings = settings.changed(seed=args.seed, epochs=args.epochs, context=args.context)
    recipe = Recipe.from_settings(
        args.task,
        settings,
        data=args.data,
        shape=args.shape,
        patch=args.patch,
        texts=texts_of(args),
    )
    if args.shape is None and args.patch is None:
        note_shape(args.command, recipe, settings)
    return recipe


def note_shape(said_by: str, recipe: Recipe, settings: Settings) -> None:
    """Say how samples make tokens where nobody asked and the preset does not say."""
    if settings.model.features is None or recipe.model.input_shape == settings.model.input_shape:
        return
    tokens, features = recipe.model.input_shape
    if (image := recipe.task.image) is not None and recipe.model.patch is not None:
        (height, width), (rows, columns) = image, recipe.model.patch
        said = (
            f"images of {height}x{width} are cut into {tokens} patches of {rows}x{columns}; "
            "--patch says otherwise"
        )
    else:
        said = (
            f"the {tokens * features} numbers of a sample are read as {tokens} tokens of "
            f"{features}; --shape says otherwise"
        )
    print(f"torusformer {said_by}: {said}", file=sys.stderr)


def run(args: argparse.Namespace) -> Outcome:
    """Train both models."""
    with output_folder(args.out, "training") as folder:
        from torusformer.pipelines.training import train_into

        recipe = recipe_of(args)
        trained = train_into(folder, recipe)
    count = recipe.task.test_count
    data = {
        "task": args.task,
        "preset": recipe.preset,
        **trained.to_json(),
        COUNTED[recipe.task.measure]: count,
        "out": str(args.out),
    }
    of_float, of_qat = (
        measured(recipe.task.measure, v) for v in (trained.of_float, trained.of_qat)
    )
    what = "held-out samples" if recipe.task.measure == "accuracy" else "held-out tokens"
    text = f"{args.out}: float {of_float}, quantized {of_qat} of {count} {what}"
    return Outcome(data, text)


COUNTED = {"accuracy": "test_count", "nats": "dev_tokens"}


def measured(measure: str, value: float) -> str:
    """A task's measure for people."""
    return percent(value) if measure == "accuracy" else f"{value:.3f} nats a token"
