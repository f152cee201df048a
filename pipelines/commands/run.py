"""`torusformer run`: a program or a deployment and samples in, answers out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from torusformer import ArtifactError, InputError
from torusformer.pipelines.commands.run_faults import with_faults
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    add_p_error,
    command,
    natural,
    percent,
    positive,
)
from torusformer.strict_json import parse_json
from torusformer.tables import table

if TYPE_CHECKING:
    from torusformer.fhe_compile.circuit.circuit import Mode
    from torusformer.pipelines.answers import Answer, Answerer, Answers, Integers

OF_TEXTS = ("sentiment",)  # as in models.tasks, which a command does not load for its --help
MODES = ("disable", "simulate", "execute")


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "run",
        "answer samples: in the clear, simulated, or encrypted",
        "torusformer run --program program.onnx --task digits --count 450 --fhe disable",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--program", type=Path, metavar="program.onnx", help="or a folder of them, one a length"
    )
    what.add_argument("--deployment", type=Path, metavar="DIR", help="client and server, encrypted")
    parser.add_argument(
        "--trust",
        type=Path,
        metavar="KEY.pub",
        help="with --deployment: refuse one that was not signed with this key",
    )
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--input", type=Path, metavar="FILE", help=".npy, or .npz by input name")
    samples.add_argument(
        "--task", metavar="NAME", help="held-out samples of a task: digits, images, sentiment"
    )
    samples.add_argument(
        "--text", action="append", metavar="TEXT", help="a text to classify; may be repeated"
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="with --task: as train --data")
    parser.add_argument("--test", type=Path, metavar="FILE", help="with --task: as train --test")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="of texts: the model's tokenizer.json or its folder; default: the one beside it",
    )
    parser.add_argument(
        "--truncate", action="store_true", help="of texts: leave out what is too long, not refuse"
    )
    parser.add_argument("--count", type=positive, default=1, metavar="N", help="with --task")
    parser.add_argument(
        "--integers", action="store_true", help="the file holds the program's integers, not reals"
    )
    parser.add_argument(
        "--fhe",
        choices=MODES,
        help="default disable for a program; a deployment always executes",
    )
    parser.add_argument(
        "--faults",
        metavar="P",
        help="with --fhe disable: bootstraps fail with this probability, as for --p-error",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the faults")
    add_p_error(parser)
    parser.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="J",
        help="with --deployment: so many server processes of one core, each with its own copy of "
        "the evaluation keys; default 1, which uses all cores for one input",
    )
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Answer each sample."""
    if args.deployment and args.fhe not in (None, "execute"):
        raise InputError(f"a deployment only executes; for --fhe {args.fhe} give --program")
    if args.jobs > 1 and not args.deployment:
        raise InputError(f"--jobs {args.jobs} shares out a deployment's work; give --deployment")
    if args.trust and not args.deployment:
        raise InputError("--trust is about a signed deployment; give --deployment")
    mode: Mode = "execute" if args.deployment else args.fhe or "disable"
    if args.faults and mode != "disable":
        raise InputError("--faults is a simulation in the clear; give --program and --fhe disable")
    if args.p_error and (args.deployment or mode == "disable"):
        raise InputError(
            "nothing is compiled, so --p-error changes nothing; give --fhe simulate or execute, "
            "or --faults for a simulation in the clear"
        )

    if args.text or args.task in OF_TEXTS:
        from torusformer.pipelines.commands.run_texts import run_texts

        return run_texts(args, mode)
    if given := [n for n in ("test", "tokenizer", "truncate") if getattr(args, n)]:
        raise InputError(f"--{given[0]} is for texts; give --text or leave it out")

    from torusformer.fhe_compile import load_program
    from torusformer.fhe_compile.prices.failure import parse_p_error
    from torusformer.pipelines.answers import Deployed, DeployedInParallel, Faulty, InProcess
    from torusformer.pipelines.values import read_samples

    model: Answerer
    if args.deployment and args.jobs > 1:
        model = DeployedInParallel(args.deployment, args.jobs, args.trust)
    elif args.deployment:
        model = Deployed(args.deployment, args.trust)
    else:
        program = load_program(args.program)
        if args.faults:
            model = Faulty(program, parse_p_error(args.faults), args.seed)
        else:
            model = InProcess(program, mode, parse_p_error(args.p_error))
    samples: Sequence[Integers]
    truth: list[str] | None
    if args.task:
        samples, truth = _held_out(args, model)
    else:
        samples, truth = read_samples(args.input, model.inputs, integers=args.integers), None
    answers = model.answer_all(samples, f"run --fhe {mode}")
    results = [answer.to_json() for answer in answers.rows]
    expected: list[Answer] = []
    if args.program and (mode != "disable" or args.faults):
        clear = InProcess(program)
        expected = [clear.answer(q_x) for q_x in samples]
        for result, answer, right in zip(results, answers.rows, expected, strict=True):
            result["bit_exact"] = answer.equals(right.q_y)
    outcome = _outcome(mode, answers, results, truth)
    if isinstance(model, Faulty):
        return with_faults(outcome, [model] * len(results), expected, truth)
    return outcome


def _held_out(args: argparse.Namespace, model: Answerer) -> tuple[list[Integers], list[str]]:
    """Held-out samples cut and quantized as the program wants them, and their labels."""
    from torusformer.models import load_task
    from torusformer.pipelines.values import to_integers

    if len(model.inputs) != 1:
        raise InputError(f"the program has {len(model.inputs)} inputs, not one; give --input")
    (port,) = model.inputs
    patch = _patch(model.about.get("patch", "null"))
    if len(port.real_shape) not in (2, 3):
        raise InputError(
            f"the program takes {port.real_shape}, not (1, tokens, features) or ids (1, tokens); "
            "give --input"
        )
    shape = port.real_shape[1:]
    task = load_task(args.task, args.data, patch=patch, input_shape=shape)
    if task.measure != "accuracy":
        raise InputError(f"the task {args.task} is for a model that writes; see generate")
    x, y = task.x_test[: args.count], task.y_test[: args.count]
    return [{port.name: q_x} for q_x in to_integers(port, x)], [task.labels[i] for i in y]


def _patch(text: str) -> tuple[int, int] | None:
    """Rows and columns of a token, from the program's metadata."""
    try:
        patch = parse_json(text)
        if patch is None:
            return None
        rows, columns = patch
        if not all(type(n) is int and 0 < n < 2**16 for n in patch):
            raise ValueError
    except (ValueError, TypeError):
        raise ArtifactError(
            f"the program cuts tokens as {shorten(text, 60)}, two whole numbers belong there; "
            "lower the QONNX file again"
        ) from None
    return rows, columns


def _outcome(
    mode: str, answers: Answers, results: list[dict[str, Any]], truth: list[str] | None
) -> Outcome:
    data: dict[str, Any] = {"fhe": mode, "count": len(results), **answers.to_json()}
    data["results"] = results
    columns: dict[str, list[object]] = {
        "sample": list(range(len(results))),
        "prediction": [r["prediction"] for r in results],
        "seconds": [f"{r['seconds']:.3f}" for r in results],
    }
    if results and "bit_exact" in results[0]:
        columns["bit-exact"] = ["yes" if r["bit_exact"] else "NO" for r in results]
    text = f"\n{answers.seconds_per_input:.3f} seconds an input: {len(results)} in "
    text += f"{answers.seconds:.3f} s by {answers.jobs} job{'s' * (answers.jobs > 1)}"
    if truth is not None:
        columns["label"] = list(truth)
        right = sum(r["prediction"] == label for r, label in zip(results, truth, strict=True))
        data["accuracy"] = right / len(truth)
        text += f"\n{percent(data['accuracy'])} of {len(truth)} right"
    rows = list(zip(*columns.values(), strict=True))
    return Outcome(data, table(list(columns), rows) + text)
