"""`torusformer train`: a task in; float model, QAT model and QONNX graph out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer import InputError
from torusformer.folders import output_folder
from torusformer.pipelines.console import Outcome, Subparsers, command, natural, percent, positive

if TYPE_CHECKING:
    from torusformer.pipelines.language import LanguageRecipe
    from torusformer.pipelines.training import Recipe

WORDS = "words"
DEFAULT_PRESET = "digits-small"


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "train",
        "train a float transformer and its quantized twin, and export the QONNX graph",
        "torusformer train --task digits --preset digits-small --out runs/train",
    )
    parser.add_argument("--task", default="digits", metavar="NAME", help="digits or words")
    add_training_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    return parser


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What `demo` takes too."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--preset", metavar="NAME", help=f"default {DEFAULT_PRESET}, or words for words"
    )
    what.add_argument(
        "--config", type=Path, metavar="FILE", help="in place of a preset: one of tune's configs/"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="your samples: .npz with x and y, .csv with label; for words a word a line, or text",
    )
    parser.add_argument(
        "--context", type=positive, metavar="N", help="of words: tokens that a text may have"
    )
    parser.add_argument(
        "--seed", type=natural, metavar="N", help="default 0, or that of the --config"
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="of each of the two trainings")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """What the arguments of `add_training_arguments` ask for."""
    from torusformer.pipelines.settings import Settings
    from torusformer.pipelines.training import Recipe

    if args.context:
        raise InputError(f"--context is for the task words, not for {args.task}; leave it out")
    preset = args.preset or DEFAULT_PRESET
    settings = Settings.load(args.config) if args.config else Settings.from_name(preset)
    settings = settings.train_with(seed=args.seed, epochs=args.epochs)
    return Recipe.from_settings(args.task, settings, data=args.data)


def language_recipe_of(args: argparse.Namespace) -> LanguageRecipe:
    """The same for the task words."""
    from torusformer.pipelines.language import DEFAULT_PRESET as WORDS_PRESET
    from torusformer.pipelines.language import LanguageRecipe

    if args.config:
        raise InputError("--config is what tune writes, and tune knows no words; give --preset")
    return LanguageRecipe.from_name(
        args.preset or WORDS_PRESET,
        data=args.data,
        context=args.context,
        seed=args.seed,
        epochs=args.epochs,
    )


def run(args: argparse.Namespace) -> Outcome:
    """Train both models."""
    if args.task == WORDS:
        return _run_words(args)
    with output_folder(args.out, "training") as folder:
        from torusformer.pipelines.training import train_into

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


def _run_words(args: argparse.Namespace) -> Outcome:
    with output_folder(args.out, "training") as folder:
        from torusformer.pipelines.language import train_decoder_into

        recipe = language_recipe_of(args)
        trained = train_decoder_into(folder, recipe)
    data = {
        "task": args.task,
        "preset": recipe.preset,
        **trained.to_json(),
        "dev_tokens": recipe.task.dev.count,
        "out": str(args.out),
    }
    text = (
        f"{args.out}: float {trained.teacher_nll:.3f}, quantized {trained.qat_nll:.3f} nats a "
        f"token on {recipe.task.dev.count} held-out ones"
    )
    return Outcome(data, text)
