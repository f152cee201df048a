"""`torusformer`: the parser, and the one place where an error becomes a sentence and exit code 2.

Each subcommand is a module of `pipelines.commands` with `add(subparsers)`, which declares its
arguments, and `run(args)`, which does the work and gives an `Outcome`: numbers for `--json`, text
for a person. Only that goes to stdout; progress and what libraries say go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from torusformer import TorusformerError, __version__
from torusformer.pipelines import ends
from torusformer.pipelines.commands import (
    calibrate,
    check,
    compile_,
    demo,
    distill,
    generate,
    import_,
    lower,
    plan,
    run,
    train,
    tune,
)

COMMANDS = (
    train, import_, distill, check, lower, calibrate, plan, compile_, run, generate, demo, tune,
)  # fmt: skip
USER_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """argparse that answers a mistake with one sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does, but a device that is full is told."""
        if message:
            print(message, end="", file=file or sys.stderr, flush=True)


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
    """Run one command; 0, or 2 after one sentence on stderr; 1 if `check` found problems.

    Stopped by a signal or by a reader that left, 128 and the number of that signal.
    """
    ends.prepare_streams()
    command = ""
    with ends.no_pipe_signal(), ends.stopping() as came:
        try:
            args = build_parser().parse_args(argv)
            command = f" {args.command}"
            with contextlib.redirect_stdout(sys.stderr), ends.own_temporary_files():
                outcome = args.run(args)
            text = json.dumps(outcome.data, indent=2) if args.json else outcome.text
            return _answer(text) or outcome.code
        except SystemExit as stop:  # --help, --version, a wrong argument
            return int(stop.code or 0)
        except BrokenPipeError:
            ends.drop(sys.stdout)
            ends.drop(sys.stderr)
            return ends.PIPE_CLOSED
        except TorusformerError as error:
            return _fail(command, str(error))
        except OSError as error:
            if not command:  # --help to a full device
                ends.drop(sys.stdout)
            place = f"{error.filename}: " if error.filename else ""
            cure = "; free some space there, or in $TMPDIR" * (error.errno == errno.ENOSPC)
            return _fail(command, f"{place}{error.strerror or error}{cure}")
        except KeyboardInterrupt as stop:  # a command that keeps what it has says so
            _tell(f"\ntorusformer{command}: {str(stop) or 'stopped, nothing was written'}")
            return 128 + (came or [signal.SIGINT])[0]


def _answer(text: str) -> int:
    """Write it, and see that it gets there."""
    try:
        print(text, flush=True)
    except OSError as error:
        ends.drop(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return ends.PIPE_CLOSED
        return _fail("", f"standard output: {error.strerror}; all else is done, send it elsewhere")
    return 0


def _fail(command: str, message: str) -> int:
    _tell(f"torusformer{command}: {' '.join(message.split())}")
    return USER_ERROR


def _tell(sentence: str) -> None:
    """One line on stderr, if anybody reads it."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        ends.drop(sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
