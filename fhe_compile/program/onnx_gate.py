"""An ONNX model from outside in; the same, or one sentence that says what is wrong with its form.

Every reader may then rely on this: one graph, without functions, subgraphs and sparse tensors, of
operators that ONNX or QONNX defines with operands and attributes of their kinds; sorted, each value
made once, names that can be printed, tensors whose numbers are all there. Nothing of it is handed
to a library of C++ but names to look up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, cast

import onnx
from onnx import AttributeProto, defs

from torusformer import ArtifactError
from torusformer.fhe_compile.program.onnx_tensors import check_tensor, count_of
from torusformer.fhe_compile.program.onnx_types import check_types

MAX_NODES = 20_000
MAX_NAME = 1_000  # characters
QUANT_DOMAINS = (
    "onnx.brevitas",
    "qonnx.custom_op.general",
    "qonnx.custom_op",
    "finn.custom_op.general",
)
OPSETS = range(9, 23)
_CHANGED = ("Softmax", "LogSoftmax", "Hardmax")  # one axis, and not all behind it
_QUANT_ATTRIBUTES: dict[str, int] = {
    "signed": AttributeProto.INT,
    "narrow": AttributeProto.INT,
    "rounding_mode": AttributeProto.STRING,
}
# Of QONNX's operators: attributes and numbers of inputs.
_QUANT_OPERATORS: dict[str, tuple[dict[str, int], range]] = {
    "Quant": (_QUANT_ATTRIBUTES, range(4, 5)),
    "IntQuant": (_QUANT_ATTRIBUTES, range(4, 5)),
    "BipolarQuant": ({}, range(2, 3)),
    "Trunc": (_QUANT_ATTRIBUTES, range(5, 7)),
    "MultiThreshold": (
        {
            "out_dtype": AttributeProto.STRING,
            "out_scale": AttributeProto.FLOAT,
            "out_bias": AttributeProto.FLOAT,
            "data_layout": AttributeProto.STRING,
        },
        range(2, 3),
    ),
}


def check_model(model: onnx.ModelProto, source: str, *, any_operator: bool = False) -> None:
    """Refuse what no reader of ours can take.

    With `any_operator`, operators that neither ONNX nor QONNX defines pass: the reader names them.

    Raises:
        ArtifactError: names the node, tensor or value.
    """
    try:
        _check_whole(model)
        opset = _opset(model)
        for tensor in model.graph.initializer:
            _within(f"tensor '{_name(tensor.name)}'", check_tensor, tensor)
        for value in (*model.graph.input, *model.graph.output):
            _within(f"'{_name(value.name)}'", _check_value, value)
        foreign: set[str] = set()
        for node in model.graph.node:
            place = f"node '{_name(node.name)}' ({_name(node.op_type)})"
            if any_operator and unknown_operator(node, opset):
                foreign.update(node.output)
                _within(place, _check_form, node)
            else:
                _within(place, _check_node, node, opset)
        _check_wiring(model.graph)
        check_types(model.graph, opset, OPSETS[-1], foreign)
    except ValueError as error:
        raise ArtifactError(f"{source}: {error}; export it again") from None


def _within(place: str, check: object, *args: object) -> None:
    try:
        check(*args)  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _check_whole(model: onnx.ModelProto) -> None:
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ValueError("it has functions, training or sparse tensors, which are not read")
    if not graph.output:
        raise ValueError("the graph has no output")
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"{len(graph.node):,} nodes, the limit is {MAX_NODES:,}")
    for entry in model.metadata_props:
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise ValueError("its metadata are no UTF-8")
    _distinct((entry.key for entry in model.metadata_props), "metadata entry")


def _opset(model: onnx.ModelProto) -> int:
    """Of the standard operators."""
    found = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(found) != 1 or found[0] not in OPSETS:
        raise ValueError(
            f"it declares opsets {found} of ONNX, one of {OPSETS[0]} to {OPSETS[-1]} is read"
        )
    return found[0]


def _name(name: str | bytes) -> str:
    """A ValueError for what cannot be printed in a message."""
    if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME:
        raise ValueError(f"a name is no printable UTF-8 of at most {MAX_NAME:,} characters")
    return name


def _check_value(value: onnx.ValueInfoProto) -> None:
    if not value.name:
        raise ValueError("an input or output has no name")
    if value.type.WhichOneof("value") != "tensor_type":
        raise ValueError("it is no tensor")
    count_of(tuple(d.dim_value for d in value.type.tensor_type.shape.dim))


def unknown_operator(node: onnx.NodeProto, opset: int = OPSETS[-1]) -> str:
    """What to say of an operator that neither ONNX nor QONNX defines; "" where one does."""
    if node.domain in QUANT_DOMAINS and node.op_type in _QUANT_OPERATORS:
        return ""
    if "channels_last" in node.domain:
        return (
            f"{node.op_type} with channels last is not read, leave the transformation to "
            "channels last out"
        )
    if node.domain not in ("", "ai.onnx"):
        return f"operator {node.domain}.{node.op_type} is unknown"
    if _schema(node.op_type, opset) is None:
        return f"ONNX opset {opset} has no operator {node.op_type}"
    return ""


def _check_form(node: onnx.NodeProto) -> None:
    """Of any operator: names that can be printed, attributes without graphs."""
    for name in (node.domain, *node.input, *node.output, *(a.name for a in node.attribute)):
        _name(name)
    if not node.output or not any(node.output):
        raise ValueError("it makes nothing")
    _distinct((attribute.name for attribute in node.attribute), "attribute")
    for attribute in node.attribute:
        if attribute.ref_attr_name or attribute.type in (
            AttributeProto.GRAPH,
            AttributeProto.GRAPHS,
        ):
            raise ValueError(f"attribute '{attribute.name}' holds a graph, which is not read")
        if attribute.type == AttributeProto.UNDEFINED:
            raise ValueError(f"attribute '{attribute.name}' is of no kind")
        for tensor in (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors):
            _within(f"attribute '{attribute.name}'", check_tensor, tensor)


def _check_node(node: onnx.NodeProto, opset: int) -> None:
    _check_form(node)
    kinds, inputs, outputs = _signature(node, opset)
    if not all(node.input[: inputs.start]):
        raise ValueError("an operand that it needs has no name")
    for attribute in node.attribute:
        if kinds.get(attribute.name) != attribute.type:
            raise ValueError(f"attribute '{attribute.name}' is unknown or of another kind")
        if attribute.name == "approximate" and attribute.s not in (b"none", b"tanh"):
            raise ValueError(f"attribute '{attribute.name}' is neither 'none' nor 'tanh'")
    if len(node.input) not in inputs or len(node.output) not in outputs:
        raise ValueError(f"it has {len(node.input)} inputs and {len(node.output)} outputs")


def _signature(node: onnx.NodeProto, opset: int) -> tuple[dict[str, int], range, range]:
    """Kinds of attributes by name, how many inputs and how many outputs there can be."""
    if node.domain in QUANT_DOMAINS and node.op_type in _QUANT_OPERATORS:
        return *_QUANT_OPERATORS[node.op_type], range(1, 2)
    if said := unknown_operator(node, opset):
        raise ValueError(said)
    if node.op_type in _CHANGED and opset < 13:
        raise ValueError(f"{node.op_type} means something else since opset 13; use that or a newer")
    found = _schema(node.op_type, opset)
    assert found is not None
    return found


@lru_cache(maxsize=1024)
def _schema(op: str, opset: int) -> tuple[dict[str, int], range, range] | None:
    for version in (opset, OPSETS[-1]):  # exporters write newer operators under older opsets
        if defs.has(op, version, "") if version == opset else defs.has(op):
            schema = defs.get_schema(op, version, "")
            return (
                {name: int(cast(Any, a.type).value) for name, a in schema.attributes.items()},
                range(schema.min_input, schema.max_input + 1),
                range(schema.min_output, schema.max_output + 1),
            )
    return None


def _check_wiring(graph: onnx.GraphProto) -> None:
    constants = [tensor.name for tensor in graph.initializer]
    made = set(constants) | {value.name for value in graph.input}
    _distinct(constants, "tensor")
    _distinct((value.name for value in graph.input), "input")
    _distinct((value.name for value in graph.output), "output")
    for node in graph.node:
        for name in node.input:
            if name and name not in made:
                raise ValueError(
                    f"node '{node.name}' ({node.op_type}) reads '{name}', which nothing before "
                    "it makes"
                )
        for name in filter(None, node.output):
            if name in made:
                raise ValueError(f"'{name}' is made twice")
            made.add(name)
    if missing := [value.name for value in graph.output if value.name not in made]:
        raise ValueError(f"nothing makes the output '{missing[0]}'")


def _distinct(names: Iterable[str], what: str) -> None:
    if twice := next(_repeated(names), None):
        raise ValueError(f"{what} '{twice}' stands there twice")


def _repeated(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)
