"""`torusformer lower`: QONNX graph in, `program.onnx` out."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from torusformer import TorusformerError
from torusformer.folders import output_file
from torusformer.pipelines.console import Outcome, Subparsers, command, positive


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
    inputs = parser.add_argument_group("inputs that no quantizer of the graph reads")
    inputs.add_argument("--input-scale", type=float, metavar="S", help="real = S * integer")
    inputs.add_argument("--input-bits", type=positive, metavar="N", help="bits of the integers")
    inputs.add_argument("--input-signed", action="store_true", help="they can be negative")
    inputs.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE.npz",
        help="samples by input name, or as x: their largest number gives the scale",
    )
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Lower, and say what the program holds."""
    from torusformer.fhe_compile import lower, save_program
    from torusformer.fhe_compile.frontend.endings import LEFT_TO_CLIENT
    from torusformer.fhe_compile.program.onnx_io import load_model
    from torusformer.pipelines.values import sample_arrays

    with output_file(args.out, _is_program) as new:
        model = load_model(args.model)
        metadata = {p.key: p.value for p in model.metadata_props}
        program = lower(
            model,
            metadata,
            tokens=args.tokens,
            input_scale=args.input_scale,
            input_bits=args.input_bits,
            input_signed=args.input_signed,
            calibrate=sample_arrays(args.calibrate) if args.calibrate else None,
        )
        save_program(program, new)
    nodes = Counter(node.op for node in program.nodes)
    left = program.metadata.get(LEFT_TO_CLIENT, "")
    data = {
        "program": str(args.out),
        "inputs": {port.name: list(port.shape) for port in program.inputs},
        "outputs": {port.name: list(port.shape) for port in program.outputs},
        "nodes": dict(sorted(nodes.items())),
        "left_to_client": left,
    }
    text = f"{args.out}: " + ", ".join(f"{n} {op}" for op, n in nodes.items())
    if left:
        text += f"\nleft to the client, who decrypts what it reads: {left}"
    return Outcome(data, text)


def _is_program(path: Path) -> bool:
    from torusformer.fhe_compile import load_program

    try:
        load_program(path)
    except TorusformerError:
        return False
    return True
