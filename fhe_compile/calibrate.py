"""This machine in, its price list out: run tables and roundings of every width, encrypted.

    python -m fhe_compile.calibrate prices.json

Seconds are those of the fastest of several runs, all threads busy: leave the machine alone
meanwhile. What is measured sits where it does in a network: a table reads a sum of four results of
other tables.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fhe_compile.circuit import EXACT, Circuit, compile_program
from fhe_compile.cost import KeySizes
from fhe_compile.program import Linear, Node, Port, Program, Round, Sum, Table

FAN_IN = 4
RUNS = 3
TABLE_BITS = range(1, 8)
PRECISE_BITS = range(1, 7)
ROUND_BITS = (5, 7, 9, 11)
KEPT = 4


def table_program(bits: int, elements: int) -> Program:
    """Tables of `bits` bits on sums of table results; as many lookups before as after the sum."""
    fan_in = FAN_IN if bits > 2 else 1
    largest = (2**bits - 1) // fan_in
    first = np.arange(2**bits) * (largest + 1) // 2**bits
    nodes: list[Node] = [Table("first", "layer", ("x",), np.array(0), first)]
    nodes.append(Linear("sum", "layer", ("first",), _weight(elements, fan_in)))
    values = (np.arange(fan_in * largest + 1) * 5) % 2**bits
    nodes.append(Table("second", "layer", ("sum",), np.array(0), values))
    ports = (Port("x", (elements,), 0, 2**bits - 1),), (Port("second", (elements,), 0, 2**bits),)
    return Program(*ports, tuple(nodes))


def precise_program(bits: int, elements: int, width: int = 11) -> Program:
    """Tables of `bits` bits whose results meet in one sum of `width`, read by one rounding."""
    kept = min(KEPT, width - 1)
    largest = (2**width - 1) // elements
    first = np.arange(2**bits) * largest // (2**bits - 1)
    nodes: tuple[Node, ...] = (
        Table("first", "layer", ("x",), np.array(0), first),
        Sum("sum", "layer", ("first",), (0,), True),
        Round("round", "layer", ("sum",), width - kept),
        Table("second", "layer", ("round",), np.array(0), np.arange(2**kept)[::-1].copy()),
    )
    ports = (Port("x", (elements,), 0, 2**bits - 1),), (Port("second", (1,), 0, 2**kept),)
    return Program(*ports, nodes)


def round_program(bits: int, elements: int) -> Program:
    """An exact rounding, and the table that reads it."""
    nodes: tuple[Node, ...] = (
        Round("round", "layer", ("x",), bits - KEPT),
        Table("second", "layer", ("round",), np.array(0), np.arange(2**KEPT)[::-1].copy()),
    )
    ports = (Port("x", (elements,), 0, 2**bits - 1),), (Port("second", (elements,), 0, 2**KEPT),)
    return Program(*ports, nodes)


def _weight(elements: int, fan_in: int) -> np.ndarray:
    shifts = [np.roll(np.eye(elements, dtype=np.int64), i, axis=1) for i in range(fan_in)]
    return np.sum(shifts, axis=0)


def measure(program: Program, p_error: float) -> tuple[float, dict[str, KeySizes]]:
    """Milliseconds of one run with all threads busy, and the key sizes behind each value."""
    circuit = compile_program(program, p_error=p_error)
    port = program.inputs[0]
    x = np.random.default_rng(0).integers(port.lo, port.hi + 1, port.shape)
    circuit.keygen()
    request = circuit.inner.encrypt(*(p.encode(x) for p in circuit.encoding.inputs))
    circuit.inner.run(request)  # expands the keys
    ms = min(_wall_ms(lambda: circuit.inner.run(request)) for _ in range(RUNS))
    return ms, key_sizes(circuit)


def _wall_ms(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return (time.monotonic() - start) * 1000


def key_sizes(circuit: Circuit) -> dict[str, KeySizes]:
    """By value, the dimensions of the bootstrap key that Concrete chose for it."""
    by_tag = circuit.statistics["programmable_bootstrap_count_per_tag_per_parameter"]
    sizes = {}
    for tag, parameters in by_tag.items():
        key = next(iter(parameters))
        sizes[tag.partition(".")[2]] = KeySizes(
            key.input_lwe_dimension(), key.glwe_dimension(), key.polynomial_size(), key.level()
        )
    return sizes


def precise_from(bits: int, cheap: KeySizes, p_error: float) -> float:
    """Precision from which tables of `bits` bits are precise: compiles, but runs nothing."""
    for width in range(max(bits + 1, 5), 13):
        program = precise_program(bits, 4, width)
        sizes = key_sizes(compile_program(program, p_error=p_error))["first"]
        if sizes.bootstrap_bytes > 1.5 * cheap.bootstrap_bytes:
            return width + 0.5  # and log2(4 results) / 2 = 1, less half of the step
    return 13.5


def threads() -> int:
    """Threads of one run."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))


def machine(p_error: float) -> dict[str, Any]:
    """Whose prices these are."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": threads(),
        "concrete_python": metadata.version("concrete-python"),
        "date": datetime.date.today().isoformat(),
        "p_error": p_error,
    }


def calibrate(p_error: float = EXACT) -> dict[str, Any]:
    """Measure everything; about ten minutes, most of it key generation for the widest tables."""
    table_ms, round_ms, precise_ms, threshold, keys, precise_keys = ({} for _ in range(6))
    round_keys: dict[str, int] = {}
    for bits in TABLE_BITS:
        elements = 64 if bits <= 5 else 256 // 2 ** (bits - 3)
        ms, sizes = measure(table_program(bits, elements), p_error)
        table_ms[bits] = round(ms / (2 * elements), 2)
        keys[bits] = asdict(sizes["second"])
        print(f"table of {bits} bits: {table_ms[bits]} ms", file=sys.stderr, flush=True)
    for bits in ROUND_BITS:
        ms, sizes = measure(round_program(bits, 64), p_error)
        round_ms[bits] = round((ms / 64 - table_ms[KEPT]) / (bits - KEPT), 2)
        round_keys = asdict(sizes["round"])
        print(f"a bit of {bits}: {round_ms[bits]} ms", file=sys.stderr, flush=True)
    for bits in PRECISE_BITS:
        ms, sizes = measure(precise_program(bits, 64), p_error)
        rest = table_ms[KEPT] + (11 - KEPT) * round_ms[11]
        precise_ms[bits] = round((ms - rest) / 64, 2)
        precise_keys[bits] = asdict(sizes["first"])
        threshold[bits] = precise_from(bits, KeySizes(**keys[bits]), p_error)
        text = f"{precise_ms[bits]} ms, from {threshold[bits]} on"
        print(f"precise table of {bits} bits: {text}", file=sys.stderr, flush=True)
    return {
        "machine": machine(p_error),
        "table_ms": table_ms,
        "precise_table_ms": precise_ms,
        "precise_from": threshold,
        "round_ms": round_ms,
        "keys": keys,
        "precise_keys": precise_keys,
        "round_keys": round_keys,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(calibrate(), indent=2) + "\n")
