"""`torusformer plan`: `program.onnx` in, its cost out, before anything compiles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torusformer import InputError
from torusformer.pipelines.commands.compile_ import refuse_open_loop
from torusformer.pipelines.console import Outcome, Subparsers, add_p_error, command, noted_prices

if TYPE_CHECKING:
    from torusformer.fhe_compile import Plan
    from torusformer.fhe_compile.prices.cost import PriceList


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "plan",
        "say what a program costs under encryption: bootstraps, seconds, keys, memory",
        "torusformer plan program.onnx --p-error fast --chart",
    )
    parser.add_argument(
        "program", type=Path, metavar="PROGRAM", help="program.onnx, or the folder of a decoder"
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
    from torusformer.pipelines.chart import save_chart, terminal_chart

    prices = noted_prices("plan", parse_p_error(args.p_error), args.prices)
    if args.program.is_dir():
        return _plan_steps(args, prices)
    refuse_open_loop(args)
    paths = [args.program, *([args.compare] if args.compare else [])]
    plans: list[tuple[str, Plan]] = [(str(p), plan(load_program(p), prices)) for p in paths]
    if args.png:
        save_chart(plans, args.png)
    data: dict[str, Any] = plans[0][1].to_json()
    texts = [plans[0][1].table()]
    if args.compare:
        (name, first), (other, second) = plans
        rows = compare(first, second)
        data |= {"compared_with": second.to_json(), "by_layer": [row.to_json() for row in rows]}
        texts = [compare_table(rows, (name, other))]
    if args.chart:
        titled = len(plans) > 1
        texts += [(f"{n}\n" if titled else "") + terminal_chart(made) for n, made in plans]
    return Outcome(data, "\n\n".join(texts))


def _plan_steps(args: argparse.Namespace, prices: PriceList) -> Outcome:
    from torusformer.fhe_compile.decoding.decoder import load_decoder
    from torusformer.pipelines.decoder_plan import plan_decoder, plan_text, plan_to_json

    if args.compare or args.png or args.chart:
        raise InputError("a decoder's steps are planned as a table; leave out the charts")
    decoder = load_decoder(args.program)
    planned = plan_decoder(decoder if args.open_loop else decoder.with_picking(), prices)
    return Outcome(plan_to_json(planned), plan_text(planned))
