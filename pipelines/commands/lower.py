"""`torusformer lower`: QONNX graph in, `program.onnx` out."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torusformer import InputError, LoweringError, TorusformerError
from torusformer.folders import output_file
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    command,
    noted_prices,
    part,
    percent,
    positive,
)
from torusformer.progress import Progress
from torusformer.tables import table

if TYPE_CHECKING:
    import onnx

    from torusformer.fhe_compile import Program
    from torusformer.fhe_compile.frontend.decompose.fidelity import Fidelity
    from torusformer.fhe_compile.frontend.decompose.rewriter import Precision
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
        "--calibrate",
        type=Path,
        metavar="FILE.npz",
        help="samples by input name, or as x: float softmax, norms and whatever no quantizer holds "
        "become tables that fit them, and so does the scale of an input without a quantizer",
    )
    inputs = parser.add_argument_group("inputs that no quantizer of the graph reads")
    inputs.add_argument("--input-scale", type=float, metavar="S", help="real = S * integer")
    inputs.add_argument("--input-bits", type=positive, metavar="N", help="bits of the integers")
    inputs.add_argument("--input-signed", action="store_true", help="they can be negative")
    floats = parser.add_argument_group("bits of what becomes tables, from 3 to 10")
    floats.add_argument("--softmax-bits", type=positive, metavar="N", help="of scores; default 7")
    floats.add_argument(
        "--norm-bits", type=positive, metavar="N", help="that end a norm; default 7"
    )
    floats.add_argument(
        "--stream-bits", type=positive, metavar="N", help="of sums and quantizers put in; default 6"
    )
    sums = parser.add_argument_group("sums that tables read too wide")
    sums.add_argument(
        "--accumulator-bits",
        type=positive,
        metavar="N",
        help="round sums that tables read wider to N bits, exactly as the program then says",
    )
    sums.add_argument(
        "--within",
        type=part,
        metavar="P",
        help="with --calibrate: read sums as narrow as it pays while no more than this part of the "
        "samples gets another class than from the file (1%% or 0.01), or no output moves further "
        "than that part; a fourth of the samples is kept to judge it",
    )
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Lower, and say what the program holds."""
    from torusformer.fhe_compile import lower, save_program
    from torusformer.fhe_compile.frontend.endings import LEFT_TO_CLIENT
    from torusformer.fhe_compile.program.onnx_io import load_model
    from torusformer.pipelines.calibration import sample_arrays, split

    if args.within is not None and not args.calibrate:
        raise InputError("--within is about answers on samples; give them with --calibrate FILE")
    narrowed: Narrowed | None = None
    with output_file(args.out, _is_program) as new:
        model = load_model(args.model)
        metadata = {p.key: p.value for p in model.metadata_props}
        samples = sample_arrays(args.calibrate) if args.calibrate else None
        judging: dict[str, Any] = {}
        if samples is not None and args.within is not None:
            samples, judging = split(samples)
        program = lower(
            model,
            metadata,
            tokens=args.tokens,
            input_scale=args.input_scale,
            input_bits=args.input_bits,
            input_signed=args.input_signed,
            calibrate=samples,
            precision=_precision(args),
        )
        near, said = _approximated(program, model, samples)
        if args.accumulator_bits is not None or args.within is not None:
            narrowed = _narrowed(args, program, model, samples)
            program = narrowed.program
        judged = _judged(program, model, judging)
        save_program(program, new)
    nodes = Counter(node.op for node in program.nodes)
    left = program.metadata.get(LEFT_TO_CLIENT, "")
    data: dict[str, Any] = {
        "program": str(args.out),
        "inputs": {port.name: list(port.shape) for port in program.inputs},
        "outputs": {port.name: list(port.shape) for port in program.outputs},
        "nodes": dict(sorted(nodes.items())),
        "left_to_client": left,
        **near,
    }
    text = f"{args.out}: " + ", ".join(f"{n} {op}" for op, n in nodes.items()) + said
    if left:
        text += f"\nleft to the client, who decrypts what it reads: {left}"
    if narrowed is not None:
        data["rounded"] = narrowed.to_json()
        text += f"\n{narrowed}"
    if judged is not None:
        data["judged"] = judged.to_json()
        text += (
            f"\non {judged.samples} samples that chose nothing: "
            f"same class as the file's {percent(judged.same_class)}"
        )
    return Outcome(data, text)


def _approximated(
    program: Program, model: onnx.ModelProto, samples: dict[str, Any] | None
) -> tuple[dict[str, Any], str]:
    """What became tables that fit the samples, and how far from the graph; "" if nothing."""
    from torusformer.fhe_compile.frontend.decompose.fidelity import fidelity
    from torusformer.fhe_compile.frontend.lowering import DECOMPOSED_KEY

    if DECOMPOSED_KEY not in program.metadata or samples is None:
        return {}, ""
    steps = json.loads(program.metadata[DECOMPOSED_KEY])
    near = fidelity(program, model, samples)
    rows = [(step["node"], step["kind"], step["bits"]) for step in steps]
    text = (
        f"\n\nnot as in the graph, but in tables that fit the samples:\n"
        f"{table(('node', 'what', 'bits'), rows)}\n\n"
        f"on {near.samples} samples: largest difference {near.largest_difference:.3g} "
        f"(outputs span {near.span:.3g}), same class {percent(near.same_class)}"
    )
    return {"decomposed": steps, "fidelity": near.to_json()}, text


def _judged(program: Program, model: onnx.ModelProto, samples: dict[str, Any]) -> Fidelity | None:
    """How near the program is to the graph on samples that chose nothing; None if there are none.

    None, too, where ONNX's reference does not compute the graph.
    """
    from torusformer.fhe_compile.frontend.decompose.fidelity import fidelity

    if not any(len(array) for array in samples.values()):
        return None
    try:
        return fidelity(program, model, samples)
    except LoweringError:
        return None


def _narrowed(
    args: argparse.Namespace,
    program: Program,
    model: onnx.ModelProto,
    arrays: dict[str, Any] | None,
) -> Narrowed:
    """The program with its wide sums rounded, near the graph's answers."""
    from torusformer.fhe_compile import narrow
    from torusformer.fhe_compile.frontend.decompose.fidelity import float_answers
    from torusformer.fhe_compile.prices.failure import EXACT
    from torusformer.pipelines.calibration import of_inputs
    from torusformer.pipelines.values import to_samples

    samples, reference = [], None
    if arrays is not None:
        chosen = of_inputs(arrays, [port.name for port in program.inputs], args.calibrate)
        samples = to_samples(program.inputs, chosen)
    if arrays is not None and args.within is not None:
        with suppress(LoweringError):  # then the program itself is what answers are kept of
            reference = float_answers(model, arrays)
    prices = noted_prices("lower", EXACT)
    with Progress("narrow sums"):
        return narrow(
            program,
            samples,
            bits=args.accumulator_bits,
            within=args.within,
            prices=prices,
            reference=reference,
        )


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
