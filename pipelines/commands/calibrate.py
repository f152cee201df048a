"""`torusformer calibrate`: this machine in, its price list out, for `plan` to count with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer import InputError
from torusformer.folders import output_file
from torusformer.pipelines.console import Outcome, Subparsers, command, positive
from torusformer.progress import Progress
from torusformer.tables import table

if TYPE_CHECKING:
    from torusformer.fhe_compile.prices.cost import PriceList

SHOWN_BITS = range(1, 9)
BUSY = 1.2  # slowest by fastest of several runs


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "calibrate",
        "measure what bootstraps take on this machine, a minute or two, and keep it for plan",
        "torusformer calibrate --out prices.json",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: the user's cache folder, for every plan"
    )
    parser.add_argument(
        "--widest", type=positive, default=6, metavar="BITS", help="tables to measure, default 6"
    )
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Measure, and keep it."""
    from torusformer.fhe_compile.circuit.calibrate import (
        calibrate,
        expected_seconds,
        prices_of,
        samples,
    )
    from torusformer.fhe_compile.prices.timings import cache_file, is_price_list

    if args.widest > max(SHOWN_BITS):
        raise InputError(f"--widest is {args.widest}; tables of up to {max(SHOWN_BITS)} bits")
    out: Path = args.out or cache_file()
    chosen = samples(args.widest)
    own = is_price_list if args.out else _always  # the cache is ours, even if it is damaged
    with (
        output_file(out, own) as new,
        Progress("calibrate", seconds=expected_seconds(chosen)) as progress,
    ):
        timings = calibrate(chosen, progress.advance)
        new.write_text(json.dumps(timings.to_json(), indent=1) + "\n")
    prices = prices_of(timings)
    data = {
        "out": str(out),
        **timings.to_json(),
        "table_ms": {
            name: {str(b): round(p.table(b), 3) for b in SHOWN_BITS} for name, p in prices.items()
        },
        "round_ms": {name: round(p.rounding(8, 1), 3) for name, p in prices.items()},
    }
    text = f"{_table(prices, args.widest)}\n{out}"
    spread, load = timings.machine["spread"], timings.machine["load"]
    if spread > BUSY or load > timings.machine["threads"] / 2:
        text += (
            f"\nother programs were running (load {load}, runs differ by a factor of {spread}): "
            f"calibrate again on an idle machine"
        )
    return Outcome(data, text)


def _always(_: Path) -> bool:
    return True


def _table(prices: dict[str, PriceList], widest: int) -> str:
    rows: list[tuple[str, ...]] = [
        (
            f"table of {bits} bits" + ("" if bits <= widest else " *"),
            *(f"{prices[name].table(bits):.1f}" for name in prices),
            *(f"{prices[name].table(bits, precise=True):.1f}" for name in prices),
        )
        for bits in SHOWN_BITS
    ]
    bit = "a bit of a rounding"
    rows.append(
        (
            bit,
            *(f"{p.rounding(8, 1):.1f}" for p in prices.values()),
            *(f"{p.rounding(8, 1, precise=True):.1f}" for p in prices.values()),
        )
    )
    head = ("ms", *prices, *(f"{name}, precise" for name in prices))
    return f"{table(head, rows, right=range(1, len(head)))}\n* from the widest measured, by work"
