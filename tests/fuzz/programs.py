"""Mutated `program.onnx`: what is read must be what ONNX Runtime computes."""

from __future__ import annotations

import copy
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.fuzz.case import Case
from tests.fuzz.mutations import MUTATIONS, bytes_of, mutate
from tests.programs import Builder, every_node, random_inputs, random_program
from torusformer.fhe_compile import Port, Program, interpret, load_program, plan
from torusformer.fhe_compile.program.nodes import Linear
from torusformer.fhe_compile.program.onnx_io import METADATA_KEY, to_onnx

WIDE = 2**40


def make(seed: int, folder: Path) -> Case:
    """A mutant in a file, read, planned if it is read, and compared with ONNX Runtime."""
    rng = random.Random(seed)
    model = onnx.ModelProto.FromString(_seeds()[rng.randrange(len(_seeds()))])
    if rng.random() < 0.6:  # more mutants then are programs
        _describe(model, rng, wild=False)
    about = mutate(model, rng, (*MUTATIONS, _metadata))
    path = folder / "program.onnx"
    path.write_bytes(bytes_of(model, rng))
    return Case(about, lambda: _run(path, seed))


def _run(path: Path, seed: int) -> None:
    program = load_program(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_reuse = False  # with it, 1.18 gives other numbers at a second run with Max
    outputs = [port.name for port in program.outputs]
    try:
        session = onnxruntime.InferenceSession(str(path), options)
        for extreme in ("", "lo", "hi"):
            q_x = _inputs(program, np.random.default_rng(seed), extreme)
            found = interpret(program, q_x)
            for name, expected in zip(outputs, session.run(outputs, q_x), strict=True):
                assert np.array_equal(found[name], expected), f"{name}: {expected}, {found[name]}"
    except (RuntimeError, ValueError) as error:  # of ONNX Runtime's many kinds
        raise AssertionError("ONNX Runtime refuses what is accepted") from error
    except Exception as error:
        if isinstance(error, AssertionError):
            raise
        raise AssertionError("ONNX Runtime refuses what is accepted") from error
    plan(program)


def _inputs(program: Program, rng: np.random.Generator, extreme: str) -> dict[str, Any]:
    found = random_inputs(program, rng, extreme)
    for port in program.inputs:
        if port.table is not None:
            tokens = rng.integers(0, port.table.shape[1], port.shape[1])
            found[port.name] = np.stack([port.table[0, token] for token in tokens])[None]
    return found


@cache
def _seeds() -> list[bytes]:
    """Programs to begin with, as files."""
    table = np.array([[[0, 1], [2, -1], [1, 3]]])
    b = Builder(Port("ids", (1, 2, 2), -1, 3, table=table))
    b.add(Linear("y", "fc", ("ids",), np.array([[1, 2], [-1, 0]])))
    programs = [every_node(), b.program("y"), *(random_program(s, 7, 4) for s in range(60))]
    return [to_onnx(p).SerializeToString() for p in programs if p.outputs]


def _metadata(model: onnx.ModelProto, rng: random.Random) -> str:
    return _describe(model, rng, wild=True)


def _describe(model: onnx.ModelProto, rng: random.Random, wild: bool) -> str:
    """Wider outputs in the description; or (`wild`) anything in it."""
    entry = next((e for e in model.metadata_props if e.key == METADATA_KEY), None)
    if entry is None:
        return "nothing"
    try:
        about = json.loads(entry.value)
        for port in about["outputs"]:
            port["lo"], port["hi"] = (0, 1) if port["one_hot"] else (-WIDE, WIDE)
    except (ValueError, TypeError, KeyError):
        return "nothing"
    if wild:
        mutate_json(about, rng)
    entry.value = json.dumps(about)
    if wild and rng.random() < 0.2:
        entry.value = spoil_text(entry.value, rng)
    return "metadata"


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**62, 2**63, 10**30, 0.5, 1e308, float("nan"),
    float("inf"), "", "x", "1", [], [1], [[1], [2, 3]], {}, {"a": 1}, [0.5, None],
    [2**40, 2**40],    [1] * 40, "ü\x00",
)  # fmt: skip


def mutate_json(value: Any, rng: random.Random) -> None:
    """Another value, name or length somewhere below."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.85:
            value = value[key]
            continue
        what = rng.random()
        if what < 0.15:
            del value[key]
        elif what < 0.25 and isinstance(value, dict):
            value[key + "x"] = value.pop(key)
        elif what < 0.3 and isinstance(value, list):
            value.append(copy.deepcopy(value[key]))
        else:
            value[key] = copy.deepcopy(rng.choice(VALUES))  # mutated again, it must not be theirs
        return


def spoil_text(text: str, rng: random.Random) -> str:
    """No JSON, or none that ends."""
    place = rng.randrange(len(text) + 1)
    what = rng.choice(
        ("[" * 100_000, '{"a":' * 50_000, "1" * 5_001, "1e400", "NaN", "-Infinity", "\x00", "", ",")
    )
    return text[:place] + what + text[rng.choice((place, len(text))) :]
