"""A wired ONNX graph in; refused where an operator takes kinds of values that ONNX forbids.

Kinds are the element types of ONNX (`TensorProto.DataType`). Without this, numpy would turn one
kind into another where ONNX Runtime computes nothing.
"""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache
from typing import Any, NamedTuple

import onnx
from onnx import TensorProto, defs

KINDS: dict[str, int] = {
    f"tensor({name.lower()})": kind for name, kind in TensorProto.DataType.items() if kind
}
_NAMES = {kind: text[len("tensor(") : -1] for text, kind in KINDS.items()}
_CONSTANTS = {"value_float": TensorProto.FLOAT, "value_int": TensorProto.INT64}
QUANTIZED = TensorProto.FLOAT  # what a Quant takes and gives


class _Operand(NamedTuple):
    variable: str  # operands of one are of one kind
    allowed: frozenset[int]


class _Signature(NamedTuple):
    inputs: tuple[_Operand, ...]
    outputs: tuple[_Operand, ...]
    one_kind: bool  # of all that repeat the last input


def check_types(
    graph: onnx.GraphProto, opset: int, latest: int, foreign: Set[str] = frozenset()
) -> None:
    """A ValueError that names the node; nodes are those of a gate that knows their operators.

    `foreign` are values that operators make which the gate does not know.
    """
    kinds: dict[str, int] = {t.name: t.data_type for t in graph.initializer}
    for value in graph.input:
        kinds.setdefault(value.name, _declared(value))
    for node in graph.node:
        if not foreign.isdisjoint(node.output):
            continue
        try:
            made = _made_by(node, [kinds.get(name, 0) for name in node.input], opset, latest)
        except ValueError as error:
            raise ValueError(f"node '{node.name}' ({node.op_type}): {error}") from None
        kinds.update(zip(node.output, made, strict=False))
    for value in graph.output:
        if (found := kinds.get(value.name, 0)) not in (0, _declared(value)):
            raise ValueError(
                f"output '{value.name}' is declared as {_NAMES[_declared(value)]} and is "
                f"{_NAMES[found]}"
            )


def _declared(value: onnx.ValueInfoProto) -> int:
    kind = value.type.tensor_type.elem_type
    if kind not in _NAMES:
        raise ValueError(f"'{value.name}' has elements of kind {kind}, which is none of ONNX")
    return kind


def _made_by(node: onnx.NodeProto, given: list[int], opset: int, latest: int) -> list[int]:
    """Kinds of its outputs, 0 where it is not known."""
    if node.domain not in ("", "ai.onnx"):
        if given[0] not in (0, QUANTIZED):
            raise ValueError(f"it quantizes {_NAMES[given[0]]}, and float is what it takes")
        return [QUANTIZED]
    signature = _signature(node.op_type, opset, latest)
    bound: dict[str, int] = {}
    for place, (name, kind) in enumerate(zip(node.input, given, strict=True)):
        if not name or not kind:
            continue
        operand = signature.inputs[min(place, len(signature.inputs) - 1)]
        if kind not in operand.allowed:
            raise ValueError(f"its operand '{name}' is {_NAMES[kind]}, which ONNX does not allow")
        repeats = place >= len(signature.inputs) - 1 and not signature.one_kind
        if not repeats and bound.setdefault(operand.variable, kind) != kind:
            raise ValueError(
                f"its operand '{name}' is {_NAMES[kind]}, another is "
                f"{_NAMES[bound[operand.variable]]}; they have to be of one kind"
            )
    made = [_result(node, out, bound) for out in signature.outputs]
    return made + made[-1:] * (len(node.output) - len(made))  # the last one may repeat


def _result(node: onnx.NodeProto, out: _Operand, bound: dict[str, int]) -> int:
    if out.variable in bound:
        return bound[out.variable]
    if len(out.allowed) == 1:
        return next(iter(out.allowed))
    by_name: dict[str, Any] = {a.name: a for a in node.attribute}
    if node.op_type in ("Constant", "ConstantOfShape"):
        if "value" in by_name:
            return int(by_name["value"].t.data_type)
        for name, kind in _CONSTANTS.items():
            if by_name.keys() & {name, name + "s"}:
                return kind
        return TensorProto.FLOAT if node.op_type == "ConstantOfShape" else 0
    if node.op_type == "Cast":
        target = int(by_name["to"].i) if "to" in by_name else 0
        if target not in out.allowed:
            raise ValueError(f"it casts to the kind {target}, which ONNX does not allow")
        return target
    return 0


@lru_cache(maxsize=1024)
def _signature(op: str, opset: int, latest: int) -> _Signature:
    schema = defs.get_schema(op, opset if defs.has(op, opset, "") else latest, "")
    constraints = {
        c.type_param_str: frozenset(KINDS[t] for t in c.allowed_type_strs if t in KINDS)
        for c in schema.type_constraints
    }

    def operand(formal: Any) -> _Operand:
        text = formal.type_str
        return _Operand(text, constraints.get(text) or frozenset({KINDS.get(text, 0)}))

    inputs, outputs = (tuple(map(operand, side)) for side in (schema.inputs, schema.outputs))
    return _Signature(inputs, outputs, not schema.inputs or schema.inputs[-1].is_homogeneous)
