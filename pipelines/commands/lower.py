"""`torusformer lower`: QONNX graph in, `program.onnx` out."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer import InputError, TorusformerError
from torusformer.folders import output_file
from torusformer.pipelines.console import Outcome, Subparsers, command, noted_prices, part, positive
from torusformer.progress import Progress

if TYPE_CHECKING:
    from torusformer.fhe_compile import Program
    from torusformer.fhe_compile.tfhe.narrowing import Narrowed


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "lower",
        "turn a QONNX file into the exact integer program that will run encrypted",
        "torusformer lower runs/train/model.qonnx.onnx --out program.onnx",
    )
    parser.add_argument("model", type=Path, metavar="FILE.qonnx.onnx", help="as Brevitas exports")
    parser.add_argument("--out", type=Path, required=True, metavar="program.onnx")
    parser.add_argument(
        "--tokens",
        choices=("one-hot", "lookup"),
        help="how token ids enter: as one-hot rows that the server embeds, or as rows of a public "
        "table that the client looks up; default as the graph says, else one-hot",
    )
    parser.add_argument(
        "--accumulator-bits",
        type=positive,
        metavar="N",
        help="round sums that tables read wider to N bits, exactly as the program then says",
    )
    parser.add_argument(
        "--within",
        type=part,
        metavar="P",
        help="with --calibrate: round sums as far as it pays while no more than this part of the "
        "samples gets another class (1%% or 0.01), or no output moves further than that part",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="samples that the program is compared on: .npz with an array named as the input, or x",
    )
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Lower, and say what the program holds."""
    from torusformer.fhe_compile import lower, save_program
    from torusformer.fhe_compile.program.onnx_io import load_model

    if args.within is not None and not args.calibrate:
        raise InputError("--within is about answers on samples; give them with --calibrate FILE")
    rounds = args.accumulator_bits is not None or args.within is not None
    if args.calibrate and not rounds:
        raise InputError("--calibrate is for --accumulator-bits and --within; give one of them")
    narrowed: Narrowed | None = None
    with output_file(args.out, _is_program) as new:
        model = load_model(args.model)
        metadata = {p.key: p.value for p in model.metadata_props}
        program = lower(model, metadata, tokens=args.tokens)
        if rounds:
            narrowed = _narrowed(args, program)
            program = narrowed.program
        save_program(program, new)
    nodes = Counter(node.op for node in program.nodes)
    data = {
        "program": str(args.out),
        "inputs": {port.name: list(port.shape) for port in program.inputs},
        "outputs": {port.name: list(port.shape) for port in program.outputs},
        "nodes": dict(sorted(nodes.items())),
    }
    text = f"{args.out}: " + ", ".join(f"{n} {op}" for op, n in nodes.items())
    if narrowed is not None:
        data["rounded"] = narrowed.to_json()
        text += f"\n{narrowed}"
    return Outcome(data, text)


def _narrowed(args: argparse.Namespace, program: Program) -> Narrowed:
    """The program with its wide sums rounded."""
    from torusformer.fhe_compile import narrow
    from torusformer.fhe_compile.prices.failure import EXACT
    from torusformer.pipelines.calibration import read_calibration
    from torusformer.pipelines.values import to_samples

    samples = []
    if args.calibrate:
        arrays = read_calibration(args.calibrate, [port.name for port in program.inputs])
        samples = to_samples(program.inputs, arrays)
    prices = noted_prices("lower", EXACT)
    with Progress("narrow sums"):
        return narrow(
            program, samples, bits=args.accumulator_bits, within=args.within, prices=prices
        )


def _is_program(path: Path) -> bool:
    from torusformer.fhe_compile import load_program

    try:
        load_program(path)
    except TorusformerError:
        return False
    return True
