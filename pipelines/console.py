"""What the subcommands share on the way in (arguments) and out (results)."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torusformer.fhe_compile.prices.cost import PriceList

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = argparse._SubParsersAction  # takes no parameter at run time


@dataclass(frozen=True)
class Outcome:
    """What a subcommand has to say: `data` for `--json`, `text` for a person, its exit code."""

    data: dict[str, Any]
    text: str
    code: int = 0


def command(
    subparsers: Subparsers, name: str, purpose: str, example: str
) -> argparse.ArgumentParser:
    """A subcommand's parser with one sentence of purpose and one example."""
    return subparsers.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"example: {example}",
    )


def add_p_error(parser: argparse.ArgumentParser) -> None:
    """`--p-error`, kept as it was typed: `prices.failure` reads it."""
    parser.add_argument(
        "--p-error",
        metavar="P",
        help="chance that a bootstrap fails: exact (2^-64, default), fast (2^-20) or a number",
    )


def noted_prices(said_by: str, p_error: float, path: Path | None = None) -> PriceList:
    """The price list to count with; what is odd about it goes to stderr."""
    from torusformer.fhe_compile.prices.cost import load_prices

    prices = load_prices(path, p_error)
    if prices.note:
        print(f"torusformer {said_by}: {prices.note}", file=sys.stderr)
    return prices


def positive(text: str) -> int:
    """An argument that counts something."""
    return _whole(text, least=1)


def natural(text: str) -> int:
    """An argument from zero up: a seed."""
    return _whole(text, least=0)


def tokens_by_features(text: str) -> tuple[int, int]:
    """An argument that is the shape of a sample: 6x1."""
    tokens, _, features = text.partition("x")
    try:
        return positive(tokens), positive(features)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TOKENSxFEATURES, say 6x1 for six tokens of one number"
        ) from None


def rows_by_columns(text: str) -> tuple[int, int]:
    """An argument that is a patch of pixels: 4x4."""
    rows, _, columns = text.partition("x")
    try:
        return positive(rows), positive(columns)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ROWSxCOLUMNS, say 4x4 for four rows of four pixels"
        ) from None


def add_samples(parser: argparse.ArgumentParser, also: str = "") -> None:
    """`--data`, `--shape` and `--patch`."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help=f"your samples: .npz with x and y (of images also x_test and y_test), .csv with "
        f"label{also}",
    )
    parser.add_argument(
        "--shape",
        type=tokens_by_features,
        metavar="TxF",
        help="how the numbers of a sample make tokens: 6x1 is six tokens of one number; default as "
        "the preset, or for flat samples that do not fit it up to eight tokens",
    )
    parser.add_argument(
        "--patch",
        type=rows_by_columns,
        metavar="RxC",
        help="of images: rows and columns of pixels a token, say 4x4; default as the preset",
    )


def add_texts(parser: argparse.ArgumentParser) -> None:
    """`--test`, `--tokenizer` and `--template`, for tasks of texts."""
    parser.add_argument(
        "--test", type=Path, metavar="FILE", help="of texts: held-out ones; default a quarter"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="of texts: a checkpoint's tokenizer.json or its folder; default: one is trained",
    )
    parser.add_argument(
        "--template",
        action="store_true",
        help="with --tokenizer: put its marks around each text, [CLS] and [SEP]",
    )


def share(text: str) -> float:
    """An argument that is a part of one: an accuracy."""
    return _real(text, most=1, what="a share between 0 and 1, say 0.96")


def part(text: str) -> float:
    """An argument that is a small part of one: 0.01, or 1%."""
    number, percent_sign, rest = text.partition("%")
    what = "a part below one, say 1% or 0.01"
    if text == "0" or rest:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    found = _real(number, most=math.inf, what=what) / (100 if percent_sign else 1)
    if found >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return found


def seconds(text: str) -> float:
    """An argument that is a time."""
    return _real(text, most=math.inf, what="a number of seconds above 0, say 5")


def _real(text: str, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most or math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
    return int(text)


def percent(part: float) -> str:
    """A share for a person.

    >>> percent(0.9622)
    '96.2 %'
    """
    return f"{100 * part:.1f} %"


def size(count: float) -> str:
    """Bytes for a person.

    >>> size(3 * 2**20)
    '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
