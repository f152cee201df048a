"""`torusformer tune`: presets and limits in; a Pareto front of seconds and accuracy out."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torusformer.pipelines.commands.train import note_shape, texts_of
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    add_samples,
    add_texts,
    command,
    natural,
    positive,
    seconds,
    share,
)

if TYPE_CHECKING:
    from torusformer.models import Task

DEFAULT_TRIALS = 30


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "tune",
        "search shapes and bit widths for the cheapest program above an accuracy, or the most "
        "accurate below a time; the same command goes on after an interruption",
        "torusformer tune --preset digits-small --max-seconds 5 --trials 40 --out runs/tune",
    )
    parser.add_argument(
        "--task", default="digits", metavar="NAME", help="digits, images or sentiment"
    )
    parser.add_argument(
        "--preset",
        action="append",
        metavar="NAME",
        help="where to start, may be given several times; default that of the task",
    )
    add_samples(parser, "; for sentiment .tsv, .csv or .jsonl of texts")
    add_texts(parser)
    parser.add_argument(
        "--min-accuracy", type=share, metavar="A", help="wanted on validation samples: 0.96"
    )
    parser.add_argument(
        "--max-seconds", type=seconds, metavar="S", help="that an encrypted input may take: 5"
    )
    parser.add_argument(
        "--trials",
        type=positive,
        default=DEFAULT_TRIALS,
        metavar="N",
        help=f"candidates to train in all, default {DEFAULT_TRIALS}; those refused by their plan "
        "do not count",
    )
    parser.add_argument(
        "--fields", metavar="A,B", help="search these alone: dim,act_bit_width; default all"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default 0")
    parser.add_argument("--epochs", type=positive, metavar="N", help="of each of the two trainings")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, or to go on")
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Search, and show the front."""
    from torusformer.fhe_compile.prices.cost import load_prices
    from torusformer.models.tasks import default_preset
    from torusformer.pipelines.front import Limits
    from torusformer.pipelines.search_folder import open_study, search_folder
    from torusformer.pipelines.search_space import Space
    from torusformer.pipelines.settings import Settings
    from torusformer.pipelines.training import Recipe
    from torusformer.pipelines.tuning import Search, report, run_search

    texts = texts_of(args)
    names = list(dict.fromkeys(args.preset or [default_preset(args.task)]))
    presets = [Settings.from_name(n).changed(seed=args.seed, epochs=args.epochs) for n in names]
    fields = args.fields.split(",") if args.fields else None
    limits = Limits(args.min_accuracy, args.max_seconds)
    read = {}
    space = Space.around(presets, fields)  # what does not go together is refused before the wait
    for i, settings in enumerate(presets):
        recipe = Recipe.from_settings(
            args.task, settings, data=args.data, shape=args.shape, patch=args.patch, texts=texts
        )
        presets[i] = recipe.shaped(settings)
        if recipe.task.tokenizer is not None:
            read[settings.model.tokens, settings.model.vocabulary] = recipe.task
        if args.shape is None and args.patch is None and i == 0:
            note_shape("tune", recipe, settings)
    if presets != list(space.presets):
        space = Space.around(presets, fields)
    search = Search(args.task, space, limits, args.data, args.seed, texts, read)
    asked = {
        "task": args.task,
        "data": args.data and hashlib.sha256(args.data.read_bytes()).hexdigest(),
        **_asked_of_texts(args, read.values()),
        "presets": [settings.to_dict() for settings in presets],
        "fields": {name: list(values) for name, values in search.space.choices.items()},
        "min_accuracy": args.min_accuracy,
        "max_seconds": args.max_seconds,
        "seed": args.seed,
        "prices": dict(load_prices().machine),
    }
    try:
        with search_folder(args.out, asked) as folder:
            study = open_study(folder)
            run_search(search, study, folder, args.trials)
            data = report(search, study, folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; {args.out} keeps what is measured, the same command goes on"
        ) from None
    return Outcome(data, _text(data, args))


def _asked_of_texts(args: argparse.Namespace, tasks: Iterable[Task]) -> dict[str, Any]:
    """What else has to be the same to go on with a search on texts."""
    tokenizers = [task.tokenizer.digest for task in tasks if task.tokenizer is not None]
    if not tokenizers:
        return {}
    test = args.test and hashlib.sha256(args.test.read_bytes()).hexdigest()
    return {"test": test, "tokenizers": tokenizers}


def _text(data: dict[str, Any], args: argparse.Namespace) -> str:
    from torusformer.pipelines.front import front_table

    out: Path = args.out
    given = [
        f"--{name} {value}"
        for name in ("data", "test", "tokenizer")
        if (value := getattr(args, name))
    ]
    given += ["--template"] * args.template
    counts = f"{len(data['measured'])} candidates trained, {len(data['skipped'])} skipped"
    rows, best = data["front"], data["best"]
    if not rows:
        return f"{counts}: none is in reach of the limits; see `skipped` in {out}/front.json"
    lines = [front_table(rows), "", counts]
    if best is None:
        lines.append("none of them is within the limits; take more --trials or other limits")
    else:
        (config,) = {row["config"] for row in rows if row["candidate"] == best}
        lines.append(f"candidate {best} is what was asked for; train and encrypt it with")
        samples = "".join(f"{said} " for said in given)
        lines.append(f"torusformer demo {data['task']} --config {out}/{config} {samples}--out DIR")
    return "\n".join([*lines, f"everything is in {out}"])
