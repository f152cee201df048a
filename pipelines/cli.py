"""`torusformer`: the parser, and the one place where an error becomes a sentence and exit code 2.

Each subcommand is a module of `pipelines.commands` with `add(subparsers)`, which declares its
arguments, and `run(args)`, which does the work and gives an `Outcome`: numbers for `--json`, text
for a person. Only that goes to stdout; progress and what libraries say go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from torusformer import TorusformerError, __version__
from torusformer.pipelines.commands import (
    calibrate,
    compile_,
    demo,
    generate,
    lower,
    plan,
    run,
    train,
    tune,
)

COMMANDS = (train, lower, calibrate, plan, compile_, run, generate, demo, tune)
USER_ERROR = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """argparse that answers a mistake with one sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="torusformer",
        description="Train a quantized transformer, compile it to TFHE, answer on ciphertexts.",
        epilog="example: torusformer demo digits --preset digits-small --out runs/digits",
    )
    parser.add_argument("--version", action="version", version=f"torusformer {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        added = module.add(subparsers)
        added.add_argument("--json", action="store_true", help="print one JSON object, no more")
        added.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 after one sentence on stderr."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, a wrong argument
        return int(stop.code or 0)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = args.run(args)
    except TorusformerError as error:
        return _fail(args.command, str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(args.command, f"{place}{error.strerror or error}")
    except KeyboardInterrupt as stop:  # a command that keeps what it has says so
        said = str(stop) or "stopped, nothing was written"
        print(f"\ntorusformer {args.command}: {said}", file=sys.stderr)
        return INTERRUPTED
    print(json.dumps(outcome.data, indent=2) if args.json else outcome.text)
    return 0


def _fail(command: str, message: str) -> int:
    print(f"torusformer {command}: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR


if __name__ == "__main__":
    raise SystemExit(main())
