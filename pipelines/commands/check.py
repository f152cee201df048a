"""`torusformer check`: QONNX graph in, all of its problems at once out, and what works."""

from __future__ import annotations

import argparse
from pathlib import Path

from torusformer.pipelines.console import Outcome, Subparsers, command


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "check",
        "say all at once what keeps a QONNX file from being lowered, layer by layer, and what "
        "works; the exit code is 0 if nothing does, 1 if something does, 2 if the file cannot be "
        "read",
        "torusformer check model.qonnx.onnx",
    )
    parser.add_argument("model", type=Path, metavar="FILE.qonnx.onnx", help="as Brevitas exports")
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Examine."""
    from torusformer.fhe_compile import examine

    found = examine(args.model)
    data = {"model": str(args.model), **found.to_json()}
    return Outcome(data, f"{args.model}: {found}", 0 if found.ok else 1)
