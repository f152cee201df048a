"""Part `wrap_oracle`: sums that wrap, in a hundred thousand bootstraps; how many are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.encrypted import Encrypted
from benchmarks.render import table
from benchmarks.runner import Bench, Part
from torusformer.fhe_compile import Program, interpret
from torusformer.fhe_compile.program.nodes import IntArray, Linear, Port, Table

ROWS, INPUTS, UNITS = 8, 64, 128
RINGS = (3, 4)  # bits of the tables of the two layers
BOOTSTRAPS = 100_000


def code(v: IntArray, bits: int) -> IntArray:
    """-1, 0 or 1 of a sum modulo 2**(bits + 1)."""
    half = 2**bits
    around = (v + half // 2) % (2 * half)
    return np.clip(half // 2 - abs(around - half), -1, 1)


def wrapping_program(units: int, rows: int) -> Program:
    """Two dense layers of ternary weights, and the codes of both as outputs."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    source, width = "x", INPUTS
    ports = []
    for layer, bits in enumerate(RINGS):
        weight = rng.integers(-1, 2, (width, units))
        reach = int(abs(weight).sum(axis=0).max())
        values = code(np.arange(-reach, reach + 1), bits)
        name = f"codes{layer}"
        nodes.append(Linear(f"sums{layer}", f"layer{layer}", (source,), weight))
        nodes.append(Table(name, f"layer{layer}", (f"sums{layer}",), np.array(reach), values))
        ports.append(Port(name, (rows, units), -1, 1))
        source, width = name, units
    return Program((Port("x", (rows, INPUTS), -1, 1),), tuple(ports), tuple(nodes))


def measure(bench: Bench) -> dict[str, Any]:
    """Runs of random inputs until there are enough bootstraps."""
    units, rows = (4, 1) if bench.quick else (UNITS, ROWS)
    program = wrapping_program(units, rows)
    encrypted = Encrypted(program)
    facts = bench.keep("circuit", encrypted.facts)
    count = 1 if bench.quick else -(-BOOTSTRAPS // facts["pbs"])

    def run(seed: int) -> dict[str, Any]:
        x = np.random.default_rng(seed).integers(-1, 2, (rows, INPUTS))
        expected = interpret(program, {"x": x})
        encrypted.circuit.keygen()
        found = encrypted.circuit.run({"x": x}, fhe="execute")
        wrong = sum(int((found[name] != expected[name]).sum()) for name in found)
        rings = [2 ** (bits + 1) for bits in RINGS]
        residues = [np.unique(expected[f"sums{i}"] % ring) for i, ring in enumerate(rings)]
        return {"wrong": wrong, "residues": [part.tolist() for part in residues]}

    runs = []
    for seed in range(count):
        runs.append(bench.keep(f"run.{seed}", run, seed))
        bench.say(f"{seed + 1}/{count}: {runs[-1]['wrong']} wrong")
    seen = [len({r for made in runs for r in made["residues"][i]}) for i in range(len(RINGS))]
    return {
        "bootstraps": facts["pbs"] * count,
        "wrong": sum(made["wrong"] for made in runs),
        "complexity_a_bootstrap": facts["complexity"] / facts["pbs"],
        "fan_in": [INPUTS, units],
        "ring": [2 ** (bits + 1) for bits in RINGS],
        "residues_seen": seen,
    }


def render(result: Mapping[str, Any]) -> str:
    """One row a layer, and the count."""
    head = ("layer", "fan-in", "ring", "residues seen")
    columns = (result["fan_in"], result["ring"], result["residues_seen"])
    rows = [(i, *row) for i, row in enumerate(zip(*columns, strict=True))]
    return (
        f"{table(head, rows)}\n\n{result['bootstraps']:,} bootstraps at 2⁻⁶⁴, "
        f"{result['wrong']} wrong."
    )


WRAP_ORACLE = Part(
    "wrap_oracle",
    "Sums that wrap",
    "Two dense layers of ternary weights whose sums wrap, on random inputs: every code decrypted "
    "and compared with the integer program.",
    measure,
    render,
)
