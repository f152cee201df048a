"""`torusformer lower`: QONNX graph in, `program.onnx` out."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from torusformer import TorusformerError
from torusformer.folders import output_file
from torusformer.pipelines.console import Outcome, Subparsers, command


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
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Lower, and say what the program holds."""
    from torusformer.fhe_compile import lower, save_program
    from torusformer.fhe_compile.program.onnx_io import load_model

    with output_file(args.out, _is_program) as new:
        model = load_model(args.model)
        metadata = {p.key: p.value for p in model.metadata_props}
        program = lower(model, metadata, tokens=args.tokens)
        save_program(program, new)
    nodes = Counter(node.op for node in program.nodes)
    data = {
        "program": str(args.out),
        "inputs": {port.name: list(port.shape) for port in program.inputs},
        "outputs": {port.name: list(port.shape) for port in program.outputs},
        "nodes": dict(sorted(nodes.items())),
    }
    return Outcome(data, f"{args.out}: " + ", ".join(f"{n} {op}" for op, n in nodes.items()))


def _is_program(path: Path) -> bool:
    from torusformer.fhe_compile import load_program

    try:
        load_program(path)
    except TorusformerError:
        return False
    return True
