"""A QONNX file through `lower`, `plan` and `run`, as a user calls them, beside ONNX Runtime."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.commands import say
from tests.fuzz.oracle import Answers, Oracle
from torusformer import TorusformerError
from torusformer.fhe_compile import Port, load_program
from torusformer.pipelines.cli import USER_ERROR

SAMPLES = 4


class RefusedError(TorusformerError):
    """A command ended in its one sentence and exit code 2."""


def command(line: str, *more: str) -> str:
    """What it prints; RefusedError for a user's mistake, AssertionError for any other end."""
    said = say(line, *more)
    notes, _, sentence = said.err.rstrip("\n").rpartition("\n")  # notes: of prices, say
    if said.code == USER_ERROR and not said.out and sentence and "Traceback" not in notes:
        raise RefusedError(sentence)
    assert said.code == 0, f"{line}: exit code {said.code}, {said.out[:500]}{said.err[-500:]}"
    return said.out


def through_commands(path: Path, seed: int) -> None:
    """Lower, plan and run; answers that are not ONNX Runtime's are an AssertionError."""
    program, samples = path.with_name("program.onnx"), path.with_name("samples.npz")
    command("lower", str(path), "--out", str(program))
    command("plan", str(program), "--json")
    ports = load_program(program).inputs
    x = _samples(ports, np.random.default_rng(seed))
    np.savez(samples, **x)
    said = command("run --fhe disable --json --program", str(program), "--input", str(samples))
    model = onnx.load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = Oracle(model)
        for i, found in enumerate(json.loads(said)["results"]):
            feeds = {v.name: _fed(v, x, i) for v in model.graph.input}
            constants = {t.name for t in model.graph.initializer}
            answers = oracle.run({k: v for k, v in feeds.items() if k not in constants})
            _compare([v.name for v in model.graph.output], found["outputs"], answers)


def _compare(names: list[str], found: Any, answers: Answers) -> None:
    for name, expected in zip(names, answers.outputs, strict=True):
        reals = np.asarray(found[name]["reals"], np.float64)
        assert reals.shape == expected.shape, f"{name}: {reals.shape}, {expected.shape}"
        error = np.abs(reals - expected)
        if not answers.tied and not (error <= 1e-5 * answers.largest + 1e-4 * np.abs(reals)).all():
            raise AssertionError(f"{name}: {reals.tolist()}, ONNX Runtime: {expected.tolist()}")


def _samples(ports: tuple[Port, ...], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Tokens, or reals of the range of their quantizer and a little beyond it."""
    found: dict[str, NDArray[Any]] = {}
    for port in ports:
        shape = (SAMPLES, *port.real_shape)
        if port.vocabulary is not None:
            found[port.name] = rng.integers(0, port.vocabulary, shape)
            continue
        zero = np.resize(port.zero_point, port.shape[-1:]).mean()
        q_x = rng.uniform(port.lo - 1, port.hi + 1, shape)
        with np.errstate(all="ignore"):
            found[port.name] = ((q_x - zero) * port.scale).astype(np.float32)
    return found


def _fed(value: onnx.ValueInfoProto, x: dict[str, NDArray[Any]], sample: int) -> NDArray[Any]:
    """One sample of a graph input; of one that no program reads, zeros."""
    kind = value.type.tensor_type
    sizes = tuple(d.dim_value or 1 for d in kind.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    rows = x.get(value.name)
    return np.zeros(sizes, dtype) if rows is None else rows[sample].reshape(sizes).astype(dtype)
