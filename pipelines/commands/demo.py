"""`torusformer demo`: the whole way, from a data set to answers on ciphertexts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer import InputError
from torusformer.folders import output_folder
from torusformer.pipelines.commands.train import add_training_arguments, recipe_of
from torusformer.pipelines.console import Outcome, Subparsers, add_p_error, command, positive

if TYPE_CHECKING:
    from torusformer.pipelines.demo import Demo
    from torusformer.pipelines.training import Recipe

IMAGES, PROMPTS, TOKENS = 3, 3, 8


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "demo",
        "train, lower, plan, compile, and answer held-out samples on ciphertexts",
        "torusformer demo digits --preset digits-small --out runs/digits",
    )
    parser.add_argument("task", metavar="TASK", help="digits, images, words or sentiment")
    add_training_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default runs/TASK")
    parser.add_argument(
        "--images", type=positive, metavar="N", help=f"encrypted samples, default {IMAGES}"
    )
    parser.add_argument(
        "--prompts", type=positive, metavar="N", help=f"of words: prompts, default {PROMPTS}"
    )
    parser.add_argument(
        "--tokens", type=positive, metavar="N", help=f"of words: written, default {TOKENS}"
    )
    add_p_error(parser)
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Do all of it and report."""
    out = args.out or Path("runs") / args.task
    with output_folder(out, "run") as folder:
        from torusformer.fhe_compile.prices.failure import parse_p_error
        from torusformer.pipelines.demo import run_demo

        demo = demo_of(args, recipe_of(args))
        report = run_demo(folder, demo, parse_p_error(args.p_error))
    return Outcome(report, f"{demo.text(report)}\neverything is in {out}")


def demo_of(args: argparse.Namespace, recipe: Recipe) -> Demo:
    """The demo of a recipe's kind of model; InputError where an argument is for the other kind."""
    from torusformer.pipelines.demo_classes import ClassesDemo
    from torusformer.pipelines.demo_sentences import SentencesDemo
    from torusformer.pipelines.demo_text import TextDemo

    writes = recipe.model.foretells
    for name in ("images",) if writes else ("prompts", "tokens"):
        if getattr(args, name) is not None:
            kind = "a model that writes" if writes else "a classifier"
            raise InputError(f"{recipe.preset} is {kind}, which takes no --{name}; leave it out")
    if writes:
        return TextDemo(recipe, args.prompts or PROMPTS, args.tokens or TOKENS)
    if recipe.task.tokenizer is not None:
        return SentencesDemo(recipe, args.images or IMAGES)
    return ClassesDemo(recipe, args.images or IMAGES)
