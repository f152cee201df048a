"""A failure probability in, Concrete's choice of parameters out: compiles, but encrypts nothing.

    python -m torusformer.fhe_compile.circuit.survey fhe_compile/prices/data/parameters.json

The programs are the smallest in which a choice shows; about five minutes for every probability.
Needed again when the release of Concrete changes.
"""

from __future__ import annotations

import json
import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from torusformer.fhe_compile.circuit.circuit import Circuit, compile_program
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.prices.parameters import KeySizes, Parameters, ReaderThresholds
from torusformer.fhe_compile.program.nodes import Node, Port, Program, Round, Sum, Table
from torusformer.progress import track

P_ERRORS = (2.0**-64, 2.0**-40, 2.0**-25, 2.0**-20, 2.0**-13, 2.0**-7)
TABLE_BITS = range(1, 9)
ROUND_BITS = range(5, 17)
KEPT = 4
LOWEST, HIGHEST = 5, 13  # bits of outputs that show the cheap and the precise parameters
READING_BITS = 6  # of the table that reads; one more or less moves its threshold by half a bit
NO_THRESHOLD = 16.5
NO_PRICES = PriceList({}, {1: 1.0}, {1: 1.0})  # there is nothing to choose in these programs


def table_program(bits: int, elements: int, width: int) -> Program:
    """Tables of `bits` bits whose results of `width` bits the client reads."""
    values = np.arange(2**bits) * (2**width - 1) // (2**bits - 1)
    nodes: tuple[Node, ...] = (Table("table", "layer", ("x",), np.array(0), values),)
    ports = (Port("x", (elements,), 0, 2**bits - 1),), (Port("table", (elements,), 0, 2**width),)
    return Program(*ports, nodes)


def reading_program(bits: int, results: int, width: int, reader: str) -> Program:
    """A sum of table results with `width` bits, read by a rounding to 4 bits or by a table."""
    values = np.arange(2**bits) * ((2**width - 1) // results) // (2**bits - 1)
    nodes: list[Node] = [
        Table("table", "layer", ("x",), np.array(0), values),
        Sum("sum", "layer", ("table",), (0,), True),
    ]
    read = width
    if reader == "rounding":
        read = min(KEPT, width - 1)
        nodes.append(Round("round", "layer", ("sum",), width - read))
    last = np.arange(2**read)[::-1] % 2**KEPT
    last[0] -= 1  # else 33 values fit five bits: the table is antiperiodic on so few
    nodes.append(Table("last", "layer", (nodes[-1].name,), np.array(0), last))
    ports = (Port("x", (results,), 0, 2**bits - 1),), (Port("last", (1,), 0, 2**KEPT),)
    return Program(*ports, tuple(nodes))


def round_program(bits: int, elements: int) -> Program:
    """An exact rounding to 4 bits, and the table that reads it."""
    last = np.arange(2**KEPT)[::-1].copy()
    nodes: tuple[Node, ...] = (
        Round("round", "layer", ("x",), bits - KEPT),
        Table("last", "layer", ("round",), np.array(0), last),
    )
    ports = (Port("x", (elements,), 0, 2**bits - 1),), (Port("last", (elements,), 0, 2**KEPT),)
    return Program(*ports, nodes)


def key_sizes(circuit: Circuit) -> dict[str, KeySizes]:
    """By value, the dimensions of the keys that Concrete chose for its bootstraps."""
    levels: dict[int, int] = {}  # by key; where several lead to it, the most digits
    for key in circuit.inner.server.program_info.get_keyset_info().keyswitch_keys():
        target = key.output_secret_key_id()
        levels[target] = max(key.level(), levels.get(target, 0))
    by_tag = circuit.statistics["programmable_bootstrap_count_per_tag_per_parameter"]
    sizes = {}
    for tag, counts in by_tag.items():
        key = max(counts, key=lambda k: counts[k])
        sizes[tag.partition(".")[2]] = KeySizes(
            key.input_lwe_dimension(),
            key.glwe_dimension(),
            key.polynomial_size(),
            key.level(),
            levels[key.input_secret_key_id()],
        )
    return sizes


def chosen(program: Program, value: str, p_error: float) -> KeySizes:
    """The parameters of one value."""
    circuit = compile_program(program, p_error=p_error, simulate=True, prices=NO_PRICES)
    return key_sizes(circuit)[value]


def threshold(bits: int, reader: str, cheap: KeySizes, p_error: float) -> float:
    """Precision from which tables of `bits` bits are precise, half way between two programs."""
    widths = range(LOWEST + 1, HIGHEST + 1) if reader == "rounding" else (READING_BITS,)
    counts = (1, 2) if reader == "rounding" else (1, 2, 4, 8, 16, 32, 63)
    programs = sorted((w + math.log2(n) / 2, w, n) for w in widths for n in counts)

    def is_precise(index: int) -> bool:
        _, width, results = programs[index]
        program = reading_program(bits, results, width, reader)
        return chosen(program, "table", p_error).level > cheap.level

    first = bisect_left(range(len(programs)), True, key=is_precise)
    if first == len(programs):
        return NO_THRESHOLD if reader == "rounding" else round(programs[-1][0] + 0.25, 2)
    return round(programs[first][0] - 0.25, 2)


def survey(p_error: float, table_bits: Sequence[int] = TABLE_BITS) -> Parameters:
    """Every width of table, and roundings, at one failure probability."""
    cheap, precise = {}, {}
    for bits in table_bits:
        lowest = table_program(bits, 4, max(bits, LOWEST))
        cheap[bits] = chosen(lowest, "table", p_error)
        precise[bits] = chosen(table_program(bits, 4, HIGHEST), "table", p_error)
    thresholds = {
        reader: {bits: threshold(bits, reader, cheap[bits], p_error) for bits in table_bits}
        for reader in ("rounding", "table")
    }

    def rounding(bits: int) -> KeySizes:
        return chosen(round_program(bits, 4), "round", p_error)

    least, most = rounding(ROUND_BITS[0]), rounding(ROUND_BITS[-1])
    precise_from = bisect_left(
        ROUND_BITS[:-1], True, key=lambda bits: rounding(bits).level > least.level
    )
    first = ROUND_BITS[precise_from]
    return Parameters(
        p_error=p_error,
        cheap=cheap,
        precise=precise,
        precise_from=ReaderThresholds(**thresholds),
        rounding=least,
        precise_rounding=most,
        rounding_precise_from=round((_precision(first - 1) + _precision(first)) / 2, 2),
    )


def _precision(bits: int) -> float:
    """At which the result of `round_program(bits)` is read: every bit removed adds its noise."""
    return bits + math.log2(max(1, bits - KEPT)) / 2


def main(path: Path) -> None:
    """Survey every failure probability and write them."""
    found = [survey(p_error).to_json() for p_error in track(P_ERRORS, "survey", seconds=60)]
    data = {
        "concrete_python": metadata.version("concrete-python"),
        "security_bits": 128,
        "sizes": ["small", "glwe", "polynomial", "level", "keyswitch"],
        "surveyed": found,
    }
    path.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
