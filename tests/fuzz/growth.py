"""Operators put into an ONNX graph that make much of little, or read what they take in another way.

One goes in front of a node, on the way of the data or on that of the weights, so that what is
behind it may still be read: the graph then computes it, or is refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGE = (2**12, 2**20, 2**31, 2**40)
Made = tuple[str, Sequence[Any], dict[str, Any]]  # operator, operands behind the first, attributes


def _int(rng: random.Random, *more: int) -> int:
    return rng.choice((0, 1, 2, 3, -1, -2, 5, *more))


def _gather(rng: random.Random) -> Made:
    """Rows again and again."""
    count = rng.choice((1, 3, 4096, 2**20))
    indices = rng.choice((np.zeros(count), np.full((2, count), -1), np.arange(3), np.array(1)))
    return "Gather", [indices.astype(np.int64)], {"axis": _int(rng)}


def _einsum(rng: random.Random) -> Made:
    equation = rng.choice(("ij->ij", "ij->ji", "ij,ij->", "ij,kl->ijkl", "abc,def->abcdef"))
    return "Einsum", [None] * equation.count(","), {"equation": equation}


def _pad(rng: random.Random) -> Made:
    rank = rng.choice((2, 3))
    pads = [rng.choice((0, 0, 1, -1, *LARGE)) for _ in range(2 * rank)]
    return "Pad", [np.array(pads, np.int64)], {"mode": rng.choice(("constant", "reflect", "edge"))}


def _sizes(rng: random.Random) -> Made:
    sizes = [rng.choice((1, 1, 2, *LARGE)) for _ in range(rng.choice((1, 2, 3)))]
    return rng.choice(("Expand", "Tile", "Reshape")), [np.array(sizes, np.int64)], {}


def _from_nothing(rng: random.Random) -> Made:
    """The operand is not read: a constant takes its place."""
    kind = rng.choice(("ConstantOfShape", "Range", "OneHot", "EyeLike"))
    size = rng.choice(LARGE)
    if kind == "ConstantOfShape":
        return kind, ["only", np.array([size] * rng.choice((1, 2)), np.int64)], {}
    if kind == "Range":
        return kind, ["only", np.array(0), np.array(size), np.array(rng.choice((1, 0, -1)))], {}
    if kind == "OneHot":
        return kind, ["only", np.zeros(4, np.int64), np.array(size), np.zeros(2, np.float32)], {}
    return kind, [], {"k": _int(rng)}


def _reshape(rng: random.Random) -> Made:
    sizes = [_int(rng, 4, 6, 8) for _ in range(rng.choice((1, 2, 3)))]
    return "Reshape", [np.array(sizes, np.int64)], {"allowzero": rng.choice((0, 0, 1))}


def _axes(rng: random.Random) -> Made:
    axes = [_int(rng, 99) for _ in range(rng.choice((0, 1, 1, 2, 40)))]
    return rng.choice(("Squeeze", "Unsqueeze")), [np.array(axes, np.int64)], {}


def _reduce(rng: random.Random) -> Made:
    axes = [_int(rng) for _ in range(rng.choice((0, 1, 1, 2)))]
    flags = {"keepdims": rng.choice((0, 1)), "noop_with_empty_axes": rng.choice((0, 1))}
    return "ReduceSum", [np.array(axes, np.int64)], flags


def _slice(rng: random.Random) -> Made:
    wide = (2**62, 2**63 - 1, -(2**63))
    parts = [np.array([_int(rng, *wide)], np.int64) for _ in range(2)]
    more = [np.array([_int(rng)], np.int64) for _ in range(rng.choice((0, 1, 2)))]
    return "Slice", [*parts, *more], {}


def _attributes(rng: random.Random) -> Made:
    """Of operators whose meaning is in them."""
    return rng.choice(
        (
            ("Flatten", [], {"axis": _int(rng, 9)}),
            ("Transpose", [], {"perm": [_int(rng) for _ in range(rng.choice((2, 3)))]}),
            ("Cast", [], {"to": rng.choice((1, 6, 7, 9, 10, 11))}),
            ("Shape", [], {"start": _int(rng), "end": _int(rng)}),
            ("CumSum", [np.array(_int(rng))], {"exclusive": 1}),
            ("Clip", [np.array(1, np.float32), np.array(-1, np.float32)], {}),
            ("Mod", [np.array(0.5, np.float32)], {"fmod": rng.choice((0, 1))}),
            ("Pow", [np.array(rng.choice((2, 0.5, -1, 1e30)), np.float32)], {}),
            ("LeakyRelu", [], {"alpha": rng.choice((-1.0, 1e30, float("nan")))}),
            ("Dropout", [np.array(0.5, np.float32), np.array(True)], {}),
            ("Split", [], {"axis": _int(rng), "num_outputs": _int(rng)}),
            ("Softmax", [], {"axis": _int(rng)}),
            ("Gelu", [], {"approximate": rng.choice(("tanh", "none", "x"))}),
            ("DepthToSpace", [], {"blocksize": rng.choice(LARGE)}),
            ("Trilu", [], {"upper": 0}),
            ("TopK", [np.array([2], np.int64)], {}),
        )
    )


def _many(rng: random.Random) -> Made:
    """The operand often."""
    kind = rng.choice(("Concat", "Sum", "Max"))
    more = [None] * rng.choice((1, 3, 400))
    return kind, more, {"axis": _int(rng)} if kind == "Concat" else {}


_MAKERS: tuple[Callable[[random.Random], Made], ...] = (
    _gather, _einsum, _pad, _sizes, _from_nothing, _reshape, _axes, _reduce, _slice, _attributes,
    _attributes, _attributes, _many,
)  # fmt: skip


def insert(model: onnx.ModelProto, rng: random.Random) -> str:
    """An operator in front of one operand of one node."""
    graph = model.graph
    places = [i for i, node in enumerate(graph.node) if node.input and node.input[0]]
    if not places:
        return "nothing"
    at = rng.choice(places)
    reader = graph.node[at]
    operand = rng.randrange(len(reader.input)) if rng.random() < 0.2 else 0
    kind, given, attributes = rng.choice(_MAKERS)(rng)
    source = reader.input[operand]
    operands = [] if any(isinstance(part, str) for part in given) else [source]
    name = f"inserted.{len(graph.node)}"
    for i, part in enumerate(p for p in given if not isinstance(p, str)):
        if part is None:
            operands.append(source)
        else:
            operands.append(f"{name}.{i}")
            graph.initializer.append(numpy_helper.from_array(np.asarray(part), operands[-1]))
    reader.input[operand] = name
    node = helper.make_node(kind, operands, [name], name=f"/net/{name}", **attributes)
    found = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    del graph.node[:]
    graph.node.extend([*found[:at], node, *found[at:]])
    return f"{kind} {attributes} before {reader.op_type}"


def repeat(model: onnx.ModelProto, rng: random.Random) -> str:
    """Nodes that double what they take, or only cost time, before the last one."""
    graph = model.graph
    if not graph.node or not graph.node[-1].input:
        return "nothing"
    kind = rng.choice(("Concat", "Add", "Mul", "Identity"))
    source = graph.node[-1].input[0]
    last = onnx.NodeProto.FromString(graph.node[-1].SerializeToString())
    del graph.node[-1]
    for i in range(rng.choice((5, 40, 400))):
        given = [source] if kind == "Identity" else [source, source]
        more = {"axis": 0} if kind == "Concat" else {}
        graph.node.append(
            helper.make_node(kind, given, [f"grown{i}"], name=f"/net/grown{i}", **more)
        )
        source = f"grown{i}"
    last.input[0] = source
    graph.node.append(last)
    return f"{kind} repeated"


def declare(model: onnx.ModelProto, rng: random.Random) -> str:
    """Sizes of gigabytes, of a tensor without numbers, of an input, or of a file elsewhere."""
    what = rng.choice(("tensor", "input", "elsewhere"))
    sizes = rng.choice(((2**40,), (2**20, 2**20), (900, 2**20), (2**62, 4), (0, 2**40), (3, 0)))
    if what == "input":
        value = rng.choice(model.graph.input) if model.graph.input else model.graph.input.add()
        value.type.tensor_type.shape.ClearField("dim")
        for size in sizes:
            value.type.tensor_type.shape.dim.add().dim_value = size
        return f"an input of {sizes}"
    if not model.graph.initializer:
        return "nothing"
    tensor = rng.choice(model.graph.initializer)
    if what == "tensor":
        tensor.dims[:] = sizes
        if rng.random() < 0.5:
            tensor.raw_data = b""
        return f"{tensor.name} of {sizes}"
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = rng.choice(("/dev/zero", "/etc/passwd", "../model.qonnx.onnx", "model.qonnx.onnx", ""))
    for key, text in (("location", place), ("offset", "0"), ("length", str(rng.choice(LARGE)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return f"{tensor.name} is in {place}"


GROWTH = (insert, insert, insert, insert, repeat, declare)
