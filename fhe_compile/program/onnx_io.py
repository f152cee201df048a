"""Integer program to and from `program.onnx`: int64 and standard ONNX operators only.

The form of each operator is its `write_onnx` (docs/formats.md lists them).

A node's ONNX name is `<layer>/<value>`. The ports' scales, zero points and bounds, and the
program's metadata, are JSON under the metadata key `torusformer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from torusformer import ArtifactError, TorusformerError, __version__
from torusformer.fhe_compile.program.nodes import (
    OPERATORS,
    AddConst,
    ArgMax,
    MatMul,
    Node,
    Program,
    Scale,
    Table,
)
from torusformer.fhe_compile.program.onnx_compare import first_difference
from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxReader, OnnxWriter
from torusformer.fhe_compile.program.onnx_gate import check_model
from torusformer.fhe_compile.program.port_json import port_from_json, port_to_json
from torusformer.fhe_compile.program.ranges import MAX_GIVEN
from torusformer.strict_json import parse_json
from torusformer.versions import installed_versions

FORMAT = "torusformer-program"
FORMAT_VERSION = 1
METADATA_KEY = "torusformer"
OPSET = 17
MAX_FILE = 1 << 30  # bytes


def describe(program: Program) -> dict[str, Any]:
    """The metadata of `program.onnx` as JSON values."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": installed_versions(),
        "inputs": [port_to_json(p) for p in program.inputs],
        "outputs": [port_to_json(p) for p in program.outputs],
        "metadata": dict(program.metadata),
    }


def to_onnx(program: Program) -> onnx.ModelProto:
    """The program as an ONNX model that ONNX Runtime runs on int64 tensors."""
    writer = OnnxWriter({name: reach.shape for name, reach in program.ranges.items()})
    for node in program.nodes:
        node.write_onnx(writer)
    graph = helper.make_graph(
        writer.nodes,
        "program",
        [helper.make_tensor_value_info(p.name, TensorProto.INT64, p.shape) for p in program.inputs],
        [
            helper.make_tensor_value_info(p.name, TensorProto.INT64, p.shape)
            for p in program.outputs
        ],
        writer.initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="torusformer",
        producer_version=__version__,
    )
    helper.set_model_props(model, {METADATA_KEY: json.dumps(describe(program))})
    return model


def save_program(program: Program, path: str | Path) -> None:
    """Write `program.onnx`."""
    onnx.save(to_onnx(program), str(path))


def _read_nodes(graph: onnx.GraphProto) -> list[Node]:
    """The program nodes that `to_onnx` wrote; KeyError or ValueError on anything else."""
    reader = OnnxReader(graph)
    nodes = []
    for proto in reversed(graph.node):  # the last node of an operator claims those before it
        if not reader.claimed.intersection(proto.output):
            found = OnnxNode(reader, proto)
            kinds = (kind for kind in OPERATORS.values() if kind.onnx_op == found.op)
            read = (kind.read_onnx(found) for kind in kinds)
            node = next((node for node in read if node is not None), None)
            if node is None:
                raise ValueError(f"{found.op} outside an operator of a program")
            nodes.append(node)
    return nodes[::-1]


def from_onnx(model: onnx.ModelProto, source: str = "program") -> Program:
    """The program of a model written by `to_onnx`.

    Raises:
        ArtifactError: the model is foreign, altered, or of another format version.
    """
    check_model(model, source)
    description = _description(model, source)
    try:
        inputs, outputs = (
            tuple(port_from_json(port) for port in description[side])
            for side in ("inputs", "outputs")
        )
        metadata = description["metadata"]
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata are no texts")
        program = Program(inputs, outputs, tuple(_read_nodes(model.graph)), dict(metadata))
        _check_values(program)
        if difference := first_difference(model, to_onnx(program)):
            raise ValueError(difference)
    except TorusformerError:
        raise
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{source} is not a valid torusformer program ({error}); lower the QONNX file again"
        ) from None
    return program


def _description(model: onnx.ModelProto, source: str) -> dict[str, Any]:
    """The metadata of ours; an ArtifactError where they are none."""
    properties = {p.key: p.value for p in model.metadata_props}
    if METADATA_KEY not in properties:
        raise ArtifactError(
            f"{source} is not a torusformer program (no '{METADATA_KEY}' metadata); "
            "make one with `torusformer lower FILE.qonnx.onnx --out program.onnx`"
        )
    try:
        description = parse_json(properties[METADATA_KEY])
    except ValueError as error:
        raise ArtifactError(
            f"{source} is not a torusformer program (its metadata are no JSON of ours: {error}); "
            "lower the QONNX file again"
        ) from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ArtifactError(
            f"{source} is not a torusformer program (of another format); lower the QONNX file again"
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{source} has program format {description.get('format_version')}, this installation "
            f"reads {FORMAT_VERSION}; lower the QONNX file again"
        )
    return description


def _check_values(program: Program) -> None:
    """A ValueError where ports or tables are not what values are proved to need."""
    if not program.inputs or not program.outputs:
        raise ValueError("it has no input or no output")
    ranges = program.prove(MAX_GIVEN)
    for port in program.outputs:
        found = ranges[port.name]
        if found.shape != port.shape or found.lo.min() < port.lo or found.hi.max() > port.hi:
            raise ValueError(f"output {port.name} does not match its description")
        if port.one_hot and not found.one_hot:
            raise ValueError(f"output {port.name} is not proved to be one-hot")
    for node in program.nodes:
        args = [ranges[name].shape for name in node.inputs]
        if isinstance(node, AddConst | Scale) and ranges[node.name].shape != args[0]:
            raise ValueError(f"{node.name} does not keep the shape {args[0]}")
        if isinstance(node, ArgMax | MatMul) and min(map(len, args)) < 2:
            raise ValueError(f"{node.name} reads a vector where a matrix belongs")
        if isinstance(node, Table):
            index = ranges[node.inputs[0]]
            low = (index.lo + node.offset).min()
            if low < 0 or (index.hi + node.offset).max() >= node.values.size:
                raise ValueError(f"table {node.name} can be read outside its values")


def load_model(path: str | Path, *, any_operator: bool = False) -> onnx.ModelProto:
    """An ONNX file whose form was checked (`onnx_gate`), as `check_model` does.

    Raises:
        ArtifactError: the file is missing, truncated, not ONNX, or malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist or is not a file")
    if path.stat().st_size > MAX_FILE:
        raise ArtifactError(f"{path} is larger than {MAX_FILE >> 20} MiB; lower a smaller model")
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ArtifactError(f"{path} is truncated or not an ONNX file ({error})") from None
    if not model.graph.node:
        raise ArtifactError(f"{path} is truncated or not an ONNX file (it holds no node)")
    check_model(model, str(path), any_operator=any_operator)
    return model


def load_program(path: str | Path) -> Program:
    """Read `program.onnx`.

    Raises:
        ArtifactError: the file is missing, truncated, foreign, or altered.
    """
    return from_onnx(load_model(path), str(path))
