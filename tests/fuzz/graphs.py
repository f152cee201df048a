"""Mutated QONNX graphs: the commands answer what ONNX Runtime computes, or refuse."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from tests.fuzz.case import Case
from tests.fuzz.commands import through_commands
from tests.fuzz.mutations import (
    MUTATIONS,
    NUMBERS,
    REALS,
    array_of,
    bytes_of,
    mutate,
    numpy_helper,
)
from tests.qonnx_graphs import GraphMaker


def make(seed: int, folder: Path) -> Case:
    """A mutant in a file, lowered, planned and run by the commands, beside ONNX Runtime."""
    rng = random.Random(seed)
    found = _seeds()
    model = onnx.ModelProto.FromString(found[rng.randrange(len(found))])
    about = mutate(model, rng, (*MUTATIONS, _quant, _quant, _quant))
    path = folder / "model.qonnx.onnx"
    path.write_bytes(bytes_of(model, rng))
    return Case(about, lambda: through_commands(path, seed))


def _quant(model: onnx.ModelProto, rng: random.Random) -> str:
    """Of a quantizer another scale, zero point or bit width."""
    quants = [node for node in model.graph.node if node.op_type == "Quant" and len(node.input) > 3]
    if not quants:
        return "nothing"
    node = rng.choice(quants)
    place = rng.choice((1, 2, 3, 3))
    old = next((t for t in model.graph.initializer if t.name == node.input[place]), None)
    if old is None or not (array := array_of(old)).size:
        return "nothing"
    values = (
        (1, 2, 16, 17, 24, 32, 33, 64, 65, 1e30, 2.5, *NUMBERS, *REALS) if place == 3 else REALS
    )
    new = np.full(array.shape, rng.choice(values), np.float32)
    if rng.random() < 0.1:
        new = np.zeros(rng.choice(((0,), (3,), (2, 2), (1, 1, 1, 1, 1, 4))), np.float32)
    name = old.name
    old.CopyFrom(numpy_helper.from_array(new, name))
    return f"operand {place} of {node.name} is {new.tolist()}"


@cache
def _seeds() -> list[bytes]:
    return [build().SerializeToString() for build in _GRAPHS]


def _mlp() -> onnx.ModelProto:
    g = GraphMaker((1, 2, 4))
    rng = np.random.default_rng(0)
    y = g.op("MatMul", g.quant("x", 0.5), g.weight(rng.integers(-2, 3, (4, 4)), 0.271))
    y = g.quant(g.op("Relu", g.op("Add", y, g.const([0.1, -0.2, 0.3, 0.0]))), 0.313, signed=False)
    mean = g.quant(g.op("ReduceMean", y, axes=[1], keepdims=0), 0.2, 4)
    return g.model(g.op("Gemm", mean, g.weight(rng.integers(-2, 3, (3, 4))), transB=1))


def _attention() -> onnx.ModelProto:
    g = GraphMaker((1, 2, 3))
    x = g.quant("x", 0.5)
    q, k = (g.quant(g.op("MatMul", x, g.weight(np.eye(3))), 0.4) for _ in range(2))
    scores = g.quant(g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1])), 0.7, 4)
    weights = g.quant(g.op("Exp", scores), 0.9, 3, signed=False)
    return g.model(g.op("MatMul", weights, x))


def _layout() -> onnx.ModelProto:
    g = GraphMaker((1, 3, 4))
    x = g.quant("x", 0.5)
    part = g.op("Slice", x, *(g.const(v, np.int64) for v in ([0], [2], [1])))
    rest = g.op("Gather", x, g.const([2, 0], np.int64), axis=1)
    y = g.op("Concat", part, rest, axis=1)
    y = g.op("Reshape", y, g.const([1, 2, -1], np.int64))
    y = g.op(
        "Expand", g.op("Unsqueeze", y, g.const([1], np.int64)), g.const([1, 2, 1, 1], np.int64)
    )
    return g.model(g.quant(g.op("Mul", g.op("Sigmoid", y), g.const(0.83)), 0.2))


def _two() -> onnx.ModelProto:
    g = GraphMaker((1, 4))
    x = g.quant("x", 0.5)
    other = g.quant(g.op("MatMul", x, g.weight(np.eye(4))), 0.4)
    y = g.quant(g.op("Max", g.op("Mul", x, g.const(0.83)), other), 0.3)
    scaled = g.op("BatchNormalization", y, *(g.const(np.full(4, v)) for v in (0.9, 0.1, 0.2, 1.1)))
    return g.model(g.quant(g.op("Mul", g.quant(scaled, 0.3), y), 0.6), y)


def _tokens() -> onnx.ModelProto:
    g = GraphMaker((1, 2), TensorProto.INT64)
    table = g.const(np.random.default_rng(0).normal(size=(5, 3)))
    rows = g.quant(g.op("Add", g.op("Gather", table, "x"), g.const(np.ones((2, 3)) * 0.1)), 0.3)
    return g.model(g.quant(g.op("MatMul", rows, g.weight(np.eye(3))), 0.4))


_GRAPHS: tuple[Callable[[], onnx.ModelProto], ...] = (_mlp, _attention, _layout, _two, _tokens)
