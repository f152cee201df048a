"""Two ONNX models in, the first difference that matters to what they compute out.

A program read from a file is written again and compared with that file: so an operand or attribute
that the reader did not look at cannot mean anything else to ONNX Runtime than to us.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper


def first_difference(given: onnx.ModelProto, written: onnx.ModelProto) -> str | None:
    """Names it; None for the same graph.

    Texts for people and the order of initializers do not matter, names do.
    """
    one, other = given.graph, written.graph
    if one.value_info or one.quantization_annotation:
        return "it describes values between its nodes"
    if [_opset(o) for o in given.opset_import] != [_opset(o) for o in written.opset_import]:
        return f"it is of opsets {[_opset(o) for o in given.opset_import]}"
    for what in ("input", "output"):
        mine, theirs = ([_value(v) for v in getattr(g, what)] for g in (one, other))
        if mine != theirs:
            return f"its {what}s are {_unlike(mine, theirs)}"
    for node, again in zip(one.node, other.node, strict=False):
        if (difference := _node_difference(node, again)) is not None:
            return f"node '{node.name}' ({node.op_type}) {difference}"
    if len(one.node) != len(other.node):
        return f"it has {len(one.node)} nodes, {len(other.node)} of which belong to operators"
    tensors = {t.name: t for t in other.initializer}
    if {t.name for t in one.initializer} != tensors.keys():
        return "it holds tensors of other names"
    for tensor in one.initializer:
        if _tensor(tensor) != _tensor(tensors[tensor.name]):
            return f"tensor '{tensor.name}' is another"
    return None


def _opset(entry: onnx.OperatorSetIdProto) -> tuple[str, int]:
    return entry.domain, entry.version


def _value(value: onnx.ValueInfoProto) -> tuple[Any, ...]:
    kind = value.type.tensor_type
    sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return value.name, kind.elem_type, kind.HasField("shape"), sizes


def _unlike(mine: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> str:
    found = [v for v in mine if v not in theirs] or [v for v in theirs if v not in mine]
    return f"others than described, '{found[0][0]}' say" if found else "in another order"


def _node_difference(node: onnx.NodeProto, again: onnx.NodeProto) -> str | None:
    for what in ("op_type", "domain", "name", "overload"):
        mine, theirs = getattr(node, what), getattr(again, what)
        if mine != theirs:
            return f"has {what} '{mine}' where '{theirs}' belongs"
    for what in ("input", "output"):
        for name, wanted in zip(getattr(node, what), getattr(again, what), strict=False):
            if name != wanted:
                return f"has {what} '{name}' where '{wanted}' belongs"
        if len(getattr(node, what)) != len(getattr(again, what)):
            return f"has {len(getattr(node, what))} {what}s"
    mine, theirs = ({a.name: _attribute(a) for a in n.attribute} for n in (node, again))
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            return f"has another attribute '{name}' than it may have"
    return None


def _attribute(attribute: AttributeProto) -> tuple[Any, ...]:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return attribute.type, _tensor(value)
    return attribute.type, value if isinstance(value, int | float | bytes) else list(value)


def _tensor(tensor: TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    array: np.ndarray = numpy_helper.to_array(tensor)
    return tensor.data_type, array.shape, array.tobytes()
