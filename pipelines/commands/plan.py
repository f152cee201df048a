"""`torusformer plan`: `program.onnx`, or the shape of a model alone, in; its cost out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torusformer import InputError
from torusformer.pipelines.commands.compile_ import refuse_open_loop
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    add_p_error,
    command,
    noted_prices,
    positive,
)

if TYPE_CHECKING:
    from torusformer.fhe_compile import Plan
    from torusformer.fhe_compile.prices.cost import PriceList


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "plan",
        "say what a program costs under encryption: bootstraps, seconds, keys, memory",
        "torusformer plan --config gpt2 --tokens 64",
    )
    parser.add_argument(
        "program",
        type=Path,
        metavar="PROGRAM",
        nargs="?",
        help="program.onnx, or the folder of a decoder, or of program.8.onnx and other lengths",
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="instead of a program: the config.json of a Hugging Face model, or a shipped one: "
        "bert-base, gpt2, llama-3-8b, llama-7b; no weights are needed",
    )
    shape = parser.add_argument_group("of a model that --config names")
    shape.add_argument(
        "--tokens",
        type=positive,
        metavar="N",
        help="the longest input; default all positions, of rotations at most 512",
    )
    shape.add_argument(
        "--hidden", action="store_true", help="without its head: hidden states are the output"
    )
    shape.add_argument("--bits", type=positive, metavar="N", help="of codes: 2 (default), 3 or 4")
    shape.add_argument(
        "--sum-bits",
        type=positive,
        metavar="N",
        help="that proved sums are read at; default two more than codes have",
    )
    shape.add_argument(
        "--sums",
        choices=("wrap", "proved"),
        help="whether sums that codes alone read wrap (default) or are proved",
    )
    parser.add_argument(
        "--open-loop", action="store_true", help="of a decoder: without the argmax of each step"
    )
    parser.add_argument("--compare", type=Path, metavar="other.onnx", help="both, layer by layer")
    parser.add_argument("--chart", action="store_true", help="bars of seconds by layer")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the bars as a picture")
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="a price list of calibrate --out"
    )
    add_p_error(parser)
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Plan one program or two."""
    from torusformer.fhe_compile import load_program, plan
    from torusformer.fhe_compile.prices.failure import parse_p_error
    from torusformer.fhe_compile.tfhe.compare import compare, compare_table
    from torusformer.pipelines.lengths import program_files

    _refuse_mixed(args)
    prices = noted_prices("plan", parse_p_error(args.p_error), args.prices)
    if args.config is not None:
        return _plan_shape(args, prices)
    if args.program.is_dir():
        if program_files(args.program):
            return _plan_lengths(args, prices)
        return _plan_steps(args, prices)
    refuse_open_loop(args)
    paths = [args.program, *([args.compare] if args.compare else [])]
    plans: list[tuple[str, Plan]] = [(str(p), plan(load_program(p), prices)) for p in paths]
    data: dict[str, Any] = plans[0][1].to_json()
    texts = [plans[0][1].table()]
    if args.compare:
        (name, first), (other, second) = plans
        rows = compare(first, second)
        data |= {"compared_with": second.to_json(), "by_layer": [row.to_json() for row in rows]}
        texts = [compare_table(rows, (name, other))]
    return Outcome(data, "\n\n".join([*texts, *_charts(args, plans)]))


def _charts(args: argparse.Namespace, plans: Sequence[tuple[str, Plan]]) -> list[str]:
    """The bars that are asked for: the picture is saved, those for the terminal are given."""
    from torusformer.pipelines.chart import save_chart, terminal_chart

    if args.png:
        save_chart(plans, args.png)
    titled = len(plans) > 1
    asked = plans if args.chart else ()
    return [(f"{name}\n" if titled else "") + terminal_chart(made) for name, made in asked]


SHAPE_OPTIONS = ("tokens", "hidden", "bits", "sum_bits", "sums")
PROGRAM_OPTIONS = ("open_loop", "compare", "chart", "png")


def _refuse_mixed(args: argparse.Namespace) -> None:
    """A program or a configuration, and options of that one."""
    if (args.program is None) == (args.config is None):
        raise InputError("a program or --config is required, one of the two")
    for names, other in ((SHAPE_OPTIONS, args.config), (PROGRAM_OPTIONS, args.program)):
        given = [name for name in names if getattr(args, name) not in (None, False)]
        if given and other is None:
            place = "a configuration" if names is SHAPE_OPTIONS else "a program"
            raise InputError(f"--{given[0].replace('_', '-')} is for {place}; leave it out")


def _plan_shape(args: argparse.Namespace, prices: PriceList) -> Outcome:
    from torusformer.models.foreign.shapes import read_shape
    from torusformer.pipelines.config_bits import FEWEST, PlannedBits
    from torusformer.pipelines.config_plan import plan_config

    bits = PlannedBits.of(args.bits or FEWEST, args.sum_bits, wraps=args.sums != "proved")
    planned = plan_config(read_shape(args.config, args.tokens, hidden=args.hidden), bits, prices)
    return Outcome(planned.to_json(), planned.table())


def _plan_steps(args: argparse.Namespace, prices: PriceList) -> Outcome:
    from torusformer.fhe_compile.decoding.decoder import load_decoder
    from torusformer.pipelines.decoder_plan import plan_decoder, plan_text, plan_to_json

    if args.compare or args.png or args.chart:
        raise InputError("a decoder's steps are planned as a table; leave out the charts")
    decoder = load_decoder(args.program)
    planned = plan_decoder(decoder if args.open_loop else decoder.with_picking(), prices)
    return Outcome(plan_to_json(planned), plan_text(planned))


def _plan_lengths(args: argparse.Namespace, prices: PriceList) -> Outcome:
    from torusformer.fhe_compile import load_program
    from torusformer.pipelines.lengths import (
        lengths_text,
        lengths_to_json,
        plan_lengths,
        program_files,
    )

    refuse_open_loop(args)
    if args.compare:
        raise InputError("--compare is of two programs; give one of each folder")
    programs = {n: load_program(path) for n, path in program_files(args.program).items()}
    _, plans = plan_lengths(programs, prices, prices.p_error)
    named = [(f"{n} pieces", made) for n, made in plans.items()]
    texts = [lengths_text(plans), *_charts(args, named)]
    return Outcome(lengths_to_json(plans), "\n\n".join(texts))
