"""`torusformer lower`: QONNX graph in, `program.onnx` out."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer import TorusformerError
from torusformer.folders import output_file
from torusformer.pipelines.console import Outcome, Subparsers, command, percent, positive
from torusformer.tables import table

if TYPE_CHECKING:
    from torusformer.fhe_compile.frontend.decompose.rewriter import Precision


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
        "--calibrate",
        type=Path,
        metavar="FILE.npz",
        help="samples by input name, or as x: float softmax, norms and whatever no quantizer holds "
        "become tables that fit them",
    )
    floats = parser.add_argument_group("bits of what becomes tables, from 3 to 10")
    floats.add_argument("--softmax-bits", type=positive, metavar="N", help="of scores; default 7")
    floats.add_argument(
        "--norm-bits", type=positive, metavar="N", help="that end a norm; default 7"
    )
    floats.add_argument(
        "--stream-bits", type=positive, metavar="N", help="of sums and quantizers put in; default 6"
    )
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Lower, and say what the program holds."""
    from torusformer.fhe_compile import lower, save_program
    from torusformer.fhe_compile.frontend.decompose.fidelity import fidelity
    from torusformer.fhe_compile.frontend.lowering import DECOMPOSED_KEY
    from torusformer.fhe_compile.program.onnx_io import load_model
    from torusformer.pipelines.values import sample_arrays

    with output_file(args.out, _is_program) as new:
        model = load_model(args.model)
        metadata = {p.key: p.value for p in model.metadata_props}
        samples = sample_arrays(args.calibrate) if args.calibrate else None
        program = lower(
            model, metadata, tokens=args.tokens, calibrate=samples, precision=_precision(args)
        )
        save_program(program, new)
    nodes = Counter(node.op for node in program.nodes)
    data = {
        "program": str(args.out),
        "inputs": {port.name: list(port.shape) for port in program.inputs},
        "outputs": {port.name: list(port.shape) for port in program.outputs},
        "nodes": dict(sorted(nodes.items())),
    }
    text = f"{args.out}: " + ", ".join(f"{n} {op}" for op, n in nodes.items())
    if DECOMPOSED_KEY in program.metadata and samples is not None:
        steps = json.loads(program.metadata[DECOMPOSED_KEY])
        near = fidelity(program, model, samples)
        data |= {"decomposed": steps, "fidelity": near.to_json()}
        rows = [(step["node"], step["kind"], step["bits"]) for step in steps]
        text += (
            f"\n\nnot as in the graph, but in tables that fit the samples:\n"
            f"{table(('node', 'what', 'bits'), rows)}\n\n"
            f"on {near.samples} samples: largest difference {near.largest_difference:.3g} "
            f"(outputs span {near.span:.3g}), same class {percent(near.same_class)}"
        )
    return Outcome(data, text)


def _precision(args: argparse.Namespace) -> Precision | None:
    """The bits that were asked for, if any."""
    from torusformer.fhe_compile.frontend.decompose.rewriter import Precision

    given = {name: getattr(args, name) for name in ("softmax_bits", "norm_bits", "stream_bits")}
    chosen = {name: bits for name, bits in given.items() if bits is not None}
    return Precision(**chosen) if chosen else None


def _is_program(path: Path) -> bool:
    from torusformer.fhe_compile import load_program

    try:
        load_program(path)
    except TorusformerError:
        return False
    return True
