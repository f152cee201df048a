"""An ONNX model in, one with a few things wrong out: structure-aware, the same for a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.fuzz.growth import GROWTH

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 33, 65, 127, 2**20, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
REALS = (0.0, -0.0, -1.0, 0.5, 1e-45, 1e-30, 1e30, 3e38, float("inf"), float("-inf"), float("nan"))
KINDS = (*range(24), 99)
OPERATORS = (
    "Add", "Sub", "Mul", "Div", "Mod", "MatMul", "Gather", "Reshape", "Expand", "Slice", "Concat",
    "Transpose", "Max", "Min", "OneHot", "TopK", "Squeeze", "Unsqueeze", "ReduceSum", "ReduceMean",
    "Constant", "Relu", "Neg", "Pow", "Exp", "Log", "Sqrt", "Clip", "Split", "Shape", "Identity",
    "Cast", "Where", "ConstantOfShape", "Range", "Tile", "Pad", "Loop", "If", "Scan", "Softmax",
    "RandomNormal", "NonZero", "EyeLike", "Resize", "Einsum", "Gemm", "BatchNormalization",
    "Flatten",
    "LayerNormalization", "Dropout", "StringNormalizer", "Quant", "IntQuant", "Trunc",
    "Nonsense",
)  # fmt: skip
Mutation = Callable[[onnx.ModelProto, random.Random], str]


def mutate(model: onnx.ModelProto, rng: random.Random, kinds: Sequence[Mutation]) -> str:
    """Change it in place, once to three times; what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if model.graph.node:
            done.append(rng.choice(kinds)(model, rng))
    return "; ".join(done)


def names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    made = [name for node in graph.node for name in node.output]
    return [
        *(v.name for v in graph.input),
        *(t.name for t in graph.initializer),
        *made,
        "",
        "nowhere",
    ]


def rewire(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(model.graph.node)
    if not node.input:
        return "nothing"
    place = rng.randrange(len(node.input))
    node.input[place] = rng.choice(names(model))
    return f"input {place} of {node.op_type}"


def inputs(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(model.graph.node)
    kept = list(node.input)
    what = rng.choice(("drop", "swap", "double", "none"))
    if what == "drop" and kept:
        kept.pop(rng.randrange(len(kept)))
    elif what == "swap":
        rng.shuffle(kept)
    elif what == "double":
        kept.append(rng.choice(names(model)))
    elif what == "none":
        kept = []
    del node.input[:]
    node.input.extend(kept)
    return f"{what} inputs of {node.op_type}"


def operator(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(model.graph.node)
    before = node.op_type
    node.op_type = rng.choice(OPERATORS)
    if rng.random() < 0.2:
        node.domain = rng.choice(("", "ai.onnx", "onnx.brevitas", "com.microsoft", "x"))
    return f"{before} is {node.domain}.{node.op_type}"


def nodes(model: onnx.ModelProto, rng: random.Random) -> str:
    found = list(model.graph.node)
    what = rng.choice(("drop", "swap", "repeat", "rename", "reverse", "none"))
    place = rng.randrange(len(found))
    if what == "drop":
        found.pop(place)
    elif what == "swap":
        rng.shuffle(found)
    elif what == "reverse":
        found.reverse()
    elif what == "repeat":
        found.insert(place, found[place])
    elif what == "rename":
        found[place].name = rng.choice(("", "\n", "a" * 2000, "x/y", "∞", "\x1b[31m"))
    else:
        found = []
    found = [onnx.NodeProto.FromString(node.SerializeToString()) for node in found]
    del model.graph.node[:]
    model.graph.node.extend(found)
    return f"{what} a node"


def outputs(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(model.graph.node)
    if node.output and rng.random() < 0.5:
        node.output[0] = rng.choice(names(model))
    else:
        node.output.append(rng.choice(names(model)))
    return f"outputs of {node.op_type}"


def attribute(model: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice([n for n in model.graph.node if n.attribute] or model.graph.node)
    if not node.attribute or rng.random() < 0.2:
        known = (
            "axis",
            "perm",
            "keepdims",
            "to",
            "value",
            "fmod",
            "axes",
            "alpha",
            "signed",
            "odd",
        )
        node.attribute.append(helper.make_attribute(rng.choice(known), rng.choice(NUMBERS)))
        return f"one more attribute of {node.op_type}"
    found = rng.choice(node.attribute)
    what = rng.choice(("int", "ints", "float", "text", "tensor", "graph", "type", "drop", "name"))
    value: Any = {
        "int": rng.choice(NUMBERS),
        "ints": [rng.choice(NUMBERS[:9]) for _ in range(rng.randint(1, 4))],
        "float": rng.choice(REALS),
        "text": rng.choice(("", "ROUND", "FLOOR", "\udcff", "constant")).encode("utf8", "replace"),
        "tensor": numpy_helper.from_array(np.zeros(rng.randint(0, 3), np.int64)),
        "graph": onnx.GraphProto(),
    }.get(what)
    name, op = found.name, node.op_type
    if what == "type":
        found.type = rng.randrange(15)
    elif what == "name":
        found.name = rng.choice(("", "axis", "value", name + "x"))
    else:
        node.attribute.remove(found)
        if what != "drop":
            node.attribute.append(helper.make_attribute(name, value))
    return f"{what} of attribute {name} of {op}"


def tensors_of(model: onnx.ModelProto) -> list[TensorProto]:
    inside = [a.t for n in model.graph.node for a in n.attribute if a.type == AttributeProto.TENSOR]
    return [*model.graph.initializer, *inside]


def array_of(tensor: TensorProto) -> np.ndarray:
    """Its numbers; none where they are spoilt already."""
    try:
        return numpy_helper.to_array(tensor).copy()
    except (ValueError, TypeError, KeyError, onnx.checker.ValidationError):
        return np.zeros(0, np.int64)


def values(model: onnx.ModelProto, rng: random.Random) -> str:
    """Other numbers, as many."""
    found = tensors_of(model)
    if not found:
        return "nothing"
    tensor = rng.choice(found)
    array = array_of(tensor)
    if not array.size:
        return "nothing"
    place = np.unravel_index(rng.randrange(array.size), array.shape)
    wild = rng.random() < 0.5
    if array.dtype.kind == "f":
        array[place] = rng.choice(REALS) if wild else float(array[place]) * rng.choice((-1, 2, 0.3))
        if rng.random() < 0.2:
            array[...] = rng.choice(REALS)
    elif array.dtype.kind in "iu":
        number = rng.choice(NUMBERS) if wild else int(array[place]) + rng.choice((-2, -1, 1, 2))
        info = np.iinfo(array.dtype)
        array[place] = min(max(number, info.min), info.max)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return f"numbers of {name}"


def tensor(model: onnx.ModelProto, rng: random.Random) -> str:
    """Sizes, kind and data that disagree."""
    found = tensors_of(model)
    if not found:
        return "nothing"
    tensor = rng.choice(found)
    what = rng.choice(
        (
            "dims",
            "rank",
            "kind",
            "cut",
            "long",
            "typed",
            "elsewhere",
            "name",
            "segment",
            "both",
            "empty",
        )
    )
    if what == "dims" and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    elif what == "rank":
        tensor.dims.extend([1] * rng.choice((1, 2, 40)))
    elif what == "kind":
        tensor.data_type = rng.choice(KINDS)
    elif what == "cut":
        tensor.raw_data = tensor.raw_data[: rng.randint(0, len(tensor.raw_data))]
    elif what == "long":
        tensor.raw_data += b"\xff" * rng.randint(1, 16)
    elif what == "typed":
        array = array_of(tensor).ravel()
        tensor.ClearField("raw_data")
        if tensor.data_type == TensorProto.INT64:
            tensor.int64_data.extend(int(v) for v in array)
        else:
            tensor.float_data.extend(float(v) for v in array)
    elif what == "elsewhere":
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"
    elif what == "name":
        tensor.name = rng.choice(names(model))
    elif what == "segment":
        tensor.segment.begin = 1
    elif what == "both":
        tensor.int64_data.append(1)
    elif what == "empty":
        tensor.dims.append(0)
        tensor.raw_data = b""
    return f"{what} of {tensor.name}"


def shape(model: onnx.ModelProto, rng: random.Random) -> str:
    """Of a graph input or output."""
    sides = [*model.graph.input, *model.graph.output]
    value = rng.choice(sides)
    kind = value.type.tensor_type
    what = rng.choice(("size", "free", "type", "drop", "rank", "name", "sequence"))
    if what == "size" and kind.shape.dim:
        rng.choice(kind.shape.dim).dim_value = rng.choice((*NUMBERS, 1 << 22, 1 << 23))
    elif what == "free" and kind.shape.dim:
        rng.choice(kind.shape.dim).dim_param = "batch"
    elif what == "type":
        kind.elem_type = rng.choice(KINDS)
    elif what == "drop":
        kind.ClearField("shape")
    elif what == "rank":
        kind.shape.dim.add().dim_value = rng.choice(NUMBERS)
    elif what == "name":
        value.name = rng.choice(names(model))
    elif what == "sequence":
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    return f"{what} of {value.name}"


def whole(model: onnx.ModelProto, rng: random.Random) -> str:
    """What concerns the model as a whole."""
    graph = model.graph
    what = rng.choice(
        ("opset", "no opset", "domain", "outputs", "inputs", "default", "sparse", "function",
         "value", "twice", "metadata", "training")
    )  # fmt: skip
    if what == "opset":
        model.opset_import[0].version = rng.choice((*NUMBERS, 9, 13, 18, 22))
    elif what == "no opset":
        del model.opset_import[:]
    elif what == "domain":
        model.opset_import.append(helper.make_opsetid(rng.choice(("", "x", "ai.onnx")), 1))
    elif what == "outputs":
        del graph.output[:]
    elif what == "inputs":
        del graph.input[:]
    elif what == "default" and graph.initializer:
        chosen = rng.choice(graph.initializer)
        graph.input.append(
            helper.make_tensor_value_info(chosen.name, chosen.data_type, list(chosen.dims))
        )
    elif what == "sparse":
        graph.sparse_initializer.add().dims.append(4)
    elif what == "function":
        function = model.functions.add()
        function.name, function.domain = rng.choice(graph.node or [onnx.NodeProto()]).op_type, ""
    elif what == "value":
        name = rng.choice(names(model))
        graph.value_info.append(helper.make_tensor_value_info(name, 1, [3]))
    elif what == "twice" and graph.initializer:
        graph.initializer.add().CopyFrom(graph.initializer[0])
    elif what == "metadata":
        entry = model.metadata_props.add()
        entry.key = rng.choice(("torusformer", "tokens", "x"))
        entry.value = rng.choice(("", "lookup", "[" * 5000, "NaN", "{}"))
    elif what == "training":
        model.training_info.add()
    return what


MUTATIONS: tuple[Mutation, ...] = (
    rewire, inputs, operator, nodes, outputs, attribute, attribute, values, values, values, tensor,
    tensor, shape, whole, *GROWTH,
)  # fmt: skip


def bytes_of(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """As a file; of some, bytes are changed or missing, or a name is no UTF-8."""
    data = bytearray(model.SerializeToString())
    chance = rng.random()
    if chance < 0.05:
        del data[rng.randrange(len(data)) :]
    elif chance < 0.15:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif chance < 0.2:
        place = data.find(rng.choice((b"c0", b"t0", b"x", b"net")))
        if place >= 0:
            data[place] = 0xFF
    return bytes(data)
