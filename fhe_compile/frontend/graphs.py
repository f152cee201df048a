"""What is read off an ONNX graph as it stands: layers, constants, sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from torusformer import LoweringError
from torusformer.fhe_compile.program.onnx_tensors import MAX_RANK
from torusformer.fhe_compile.program.ranges import MAX_GIVEN

_HANDED_ON = frozenset({
    "Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose",
    "Unsqueeze", "Quant", "IntQuant",
})  # fmt: skip
_QUANT_PARTS = ("act_quant", "weight_quant", "bias_quant", "tensor_quant", "export_handler", "impl")


def layer_of(proto: onnx.NodeProto) -> str:
    """The module path of a node: '/blocks.0/attn/q/act_quant/…/Quant' is 'blocks.0.attn.q'."""
    parts = [p for p in proto.name.split("/") if p][:-1]
    kept = [p for p in parts if not p.startswith(_QUANT_PARTS)]
    return ".".join(kept) or proto.op_type.lower()


def constant_of(attr: dict[str, Any]) -> np.ndarray:
    """The tensor of a Constant node with these attributes."""
    if isinstance(attr.get("value"), onnx.TensorProto):
        return numpy_helper.to_array(attr["value"])
    for key, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        if key in attr:
            return np.array(attr[key], dtype)
        if key + "s" in attr:
            return np.array(attr[key + "s"], dtype)
    raise LoweringError("a Constant without a number")


def axis_of(axis: int, rank: int) -> int:
    """An axis of a tensor of this rank, counted from 0; a LoweringError where it has none such."""
    if not -rank <= axis < rank:
        raise LoweringError(f"axis {axis} of a tensor that has {rank}")
    return axis % rank


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Of a graph input, batch 1; a LoweringError where a size is free."""
    sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if sizes and sizes[0] == 0:
        sizes[0] = 1  # a free batch axis: a program answers one input
    if len(sizes) > MAX_RANK or math.prod(sizes) > MAX_GIVEN:
        raise LoweringError(
            f"graph input '{value.name}' has sizes {sizes}, the limit is {MAX_GIVEN:,} numbers"
        )
    if not sizes or any(n < 1 for n in sizes):
        raise LoweringError(
            f"graph input '{value.name}' has a free size {sizes}; export with fixed sizes, batch 1"
        )
    return tuple(sizes)


def table_lengths(graph: onnx.GraphProto, name: str) -> set[int]:
    """Lengths of the tables in which rows are gathered by this input, moved or cast perhaps."""
    made_by = {output: node for node in graph.node for output in node.output}
    tables = {t.name: tuple(t.dims) for t in graph.initializer}
    derived, counts = {name}, set()

    def rows(value: str) -> int | None:
        while value in made_by and made_by[value].op_type in ("Quant", "IntQuant", "Identity"):
            value = made_by[value].input[0]
        if value not in made_by:
            return next(iter(tables.get(value, ())), None)
        given = [a.t.dims for a in made_by[value].attribute if a.HasField("t")]
        return next(iter(given[0]), None) if given else None

    for node in graph.node:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if node.op_type == "Gather" and node.input[1] in derived and axis == 0:
            found = rows(node.input[0])
            counts |= {found} if found else set()
        elif node.op_type in _HANDED_ON and node.input[0] in derived:
            derived.update(node.output)
    return counts


def clip_bounds(
    graph: onnx.GraphProto, readers: Sequence[onnx.NodeProto]
) -> list[tuple[float, float]]:
    """The bounds of each reader of a tensor, if all of them clip it by constants; else none."""
    if not all(reader.op_type == "Clip" for reader in readers):
        return []
    wanted = {name for reader in readers for name in reader.input[1:3] if name}
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in wanted}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted:
            attr = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            known[node.output[0]] = constant_of(attr)
    if wanted - known.keys() or any(array.size != 1 for array in known.values()):
        return []
    found = []
    for reader in readers:
        attr = {a.name: helper.get_attribute_value(a) for a in reader.attribute}
        ends = [attr.get("min", -math.inf), attr.get("max", math.inf)]
        for i, name in enumerate(reader.input[1:3]):
            if name:
                ends[i] = float(known[name].reshape(()))
        found.append((ends[0], ends[1]))
    return found
