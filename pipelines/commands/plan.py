"""`torusformer plan`: `program.onnx` in, its cost out, before anything compiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.console import Outcome, Subparsers, command


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "plan",
        "say what a program costs under encryption: bootstraps, seconds, keys, memory",
        "torusformer plan program.onnx --json",
    )
    parser.add_argument("program", type=Path, metavar="program.onnx")
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Plan."""
    from fhe_compile import load_program, plan

    made = plan(load_program(args.program))
    return Outcome(made.to_json(), made.table())
