"""`torusformer compile`: `program.onnx` in, `deployment/` for client and server out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer import InputError
from torusformer.folders import require_free
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    add_p_error,
    command,
    noted_prices,
    size,
)
from torusformer.progress import Progress

if TYPE_CHECKING:
    from torusformer.fhe_compile.deployment.shared_keys import SharedKeys


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "compile",
        "compile a program to a TFHE circuit: client.zip for one side, server.zip for the other",
        "torusformer compile program.onnx --out deployment",
    )
    parser.add_argument(
        "program",
        type=Path,
        metavar="PROGRAM",
        help="program.onnx, or the folder of a decoder or of programs, one a length",
    )
    parser.add_argument(
        "--open-loop", action="store_true", help="of a decoder: the client picks each token"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--sign", type=Path, metavar="KEY.pem", help="an Ed25519 private key to sign it with"
    )
    parser.add_argument(
        "--keys-of",
        type=Path,
        metavar="DIR",
        help="a deployment whose evaluation keys this one is to take: a client sends them once",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="of programs of texts: their tokenizer.json or its folder; default: in their folder",
    )
    add_p_error(parser)
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Compile."""
    from torusformer.fhe_compile import compile_plan, load_program, plan, save_deployment
    from torusformer.fhe_compile.prices.failure import parse_p_error, show_p_error
    from torusformer.pipelines.lengths import program_files

    if args.program.is_dir() and program_files(args.program):
        return _compile_lengths(args)
    if args.tokenizer:
        raise InputError("--tokenizer is for a folder of programs of texts; leave it out")
    if args.program.is_dir():
        return _compile_steps(args)
    refuse_open_loop(args)
    require_free(args.out, "deployment")
    _refuse_bad_key(args.sign)
    p_error = parse_p_error(args.p_error)
    program = load_program(args.program)
    prices = noted_prices("compile", p_error)
    keys = _keys_of(args.keys_of)
    made = plan(program, prices)  # what cannot be compiled is refused before the wait
    with Progress("compile"):
        circuit = compile_plan(made, keys=keys and keys.restriction)
        save_deployment(circuit, args.out, args.sign, keys)
    seconds, key_bytes = circuit.plan.predicted_seconds, circuit.key_bytes
    data = {
        "deployment": str(args.out),
        "pbs_total": circuit.plan.pbs_total,
        "max_bit_width": circuit.plan.max_bit_width,
        "predicted_seconds": round(seconds, 3),
        "key_bytes": key_bytes,
        "p_error": p_error,
        "failure_probability": circuit.plan.failure_probability,
    }
    text = (
        f"{args.out}: {circuit.plan.pbs_total} bootstraps, about {seconds:.1f} s an input, "
        f"evaluation keys {size(key_bytes)}, p_error {show_p_error(p_error)}"
    )
    return Outcome(data, text)


def refuse_open_loop(args: argparse.Namespace) -> None:
    """`--open-loop` says something about a decoder only."""
    if args.open_loop:
        raise InputError(f"{args.program}: is no folder of a decoder; leave out --open-loop")


def _refuse_bad_key(path: Path | None) -> None:
    """Before the wait."""
    from torusformer.fhe_compile.deployment.manifest import read_private_key

    if path is not None:
        read_private_key(path)


def _keys_of(folder: Path | None) -> SharedKeys | None:
    """Before the wait."""
    from torusformer.fhe_compile.deployment.shared_keys import shared_keys

    return None if folder is None else shared_keys(folder)


def _compile_lengths(args: argparse.Namespace) -> Outcome:
    """All lengths of a model of texts, under one set of keys."""
    from torusformer.fhe_compile.deployment.lengths import LengthsInterface
    from torusformer.fhe_compile.prices.failure import parse_p_error, show_p_error
    from torusformer.pipelines.lengths import compile_lengths, lengths_to_json, plan_lengths
    from torusformer.pipelines.sentences import of_programs

    refuse_open_loop(args)
    require_free(args.out, LengthsInterface.ARTEFACT)
    _refuse_bad_key(args.sign)
    p_error = parse_p_error(args.p_error)
    sentences = of_programs(args.program, tokenizer=args.tokenizer)
    keys = _keys_of(args.keys_of)
    prices = noted_prices("compile", p_error)
    planned, plans = plan_lengths(sentences.programs, prices, p_error)
    module = compile_lengths(planned, args.out, sentences.tokenizer, args.sign, keys)
    key_bytes = module.key_bytes
    lengths = lengths_to_json(plans)["by_length"]
    data = {
        "deployment": str(args.out), "lengths": lengths, "key_bytes": key_bytes, "p_error": p_error,
    }  # fmt: skip
    costs = ", ".join(
        f"{n} pieces about {made['predicted_seconds']:.1f} s" for n, made in lengths.items()
    )
    text = (
        f"{args.out}: {costs}, evaluation keys {size(key_bytes)}, p_error {show_p_error(p_error)}"
    )
    return Outcome(data, text)


def _compile_steps(args: argparse.Namespace) -> Outcome:
    """All steps of a decoder as one module."""
    from torusformer.fhe_compile.decoding.decoder import load_decoder
    from torusformer.fhe_compile.deployment.decoder import DecoderInterface
    from torusformer.fhe_compile.deployment.deployment import save_decoder_deployment
    from torusformer.fhe_compile.prices.failure import parse_p_error, show_p_error
    from torusformer.pipelines.writing import compile_decoder

    require_free(args.out, DecoderInterface.ARTEFACT)
    _refuse_bad_key(args.sign)
    p_error = parse_p_error(args.p_error)
    decoder = load_decoder(args.program)
    if not args.open_loop:
        decoder = decoder.with_picking()
    keys = _keys_of(args.keys_of)
    module = compile_decoder(decoder, p_error, keys=keys and keys.restriction)
    save_decoder_deployment(module, args.out, args.sign, keys)
    plans = [f.plan for name, f in module.functions.items() if name.startswith("step")]
    seconds = [round(plan.predicted_seconds, 3) for plan in plans]
    data = {
        "deployment": str(args.out),
        "closed_loop": decoder.picks,
        "functions": len(module.functions),
        "predicted_seconds": seconds,
        "key_bytes": module.key_bytes,
        "p_error": p_error,
    }
    text = (
        f"{args.out}: {len(module.functions)} functions, about {seconds[0]:.1f} to "
        f"{seconds[-1]:.1f} s a token, evaluation keys {size(module.key_bytes)}, p_error "
        f"{show_p_error(p_error)}"
    )
    return Outcome(data, text)
