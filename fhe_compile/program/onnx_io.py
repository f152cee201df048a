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

from torusformer import ArtifactError, BitWidthError, __version__
from torusformer.fhe_compile.program.nodes import OPERATORS, Node, Program, Table
from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxReader, OnnxWriter
from torusformer.fhe_compile.program.port_json import port_from_json, port_to_json
from torusformer.versions import installed_versions

FORMAT = "torusformer-program"
FORMAT_VERSION = 1
METADATA_KEY = "torusformer"
OPSET = 17


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
    properties = {p.key: p.value for p in model.metadata_props}
    try:
        description = json.loads(properties[METADATA_KEY])
        if description["format"] != FORMAT:
            raise KeyError(METADATA_KEY)
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ArtifactError(
            f"{source} is not a torusformer program (no '{METADATA_KEY}' metadata); "
            "make one with `torusformer lower FILE.qonnx.onnx --out program.onnx`"
        ) from None
    if description.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{source} has program format {description.get('format_version')}, this installation "
            f"reads {FORMAT_VERSION}; lower the QONNX file again"
        )
    try:
        program = Program(
            tuple(port_from_json(p) for p in description["inputs"]),
            tuple(port_from_json(p) for p in description["outputs"]),
            tuple(_read_nodes(model.graph)),
            {str(k): str(v) for k, v in description["metadata"].items()},
        )
        ranges = program.ranges
        for port in program.outputs:
            found = ranges[port.name]
            if found.shape != port.shape or found.lo.min() < port.lo or found.hi.max() > port.hi:
                raise ValueError(f"output {port.name} does not match its description")
        for node in program.nodes:
            if isinstance(node, Table):
                index = ranges[node.inputs[0]]
                low = (index.lo + node.offset).min()
                if low < 0 or (index.hi + node.offset).max() >= node.values.size:
                    raise ValueError(f"table {node.name} can be read outside its values")
    except BitWidthError:
        raise
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{source} is not a valid torusformer program ({error}); lower the QONNX file again"
        ) from None
    return program


def load_model(path: str | Path) -> onnx.ModelProto:
    """An ONNX file without external data.

    Raises:
        ArtifactError: the file is missing, truncated, or not ONNX.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist or is not a file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or not an ONNX file ({error})") from None
    if not model.graph.node:
        raise ArtifactError(f"{path} is truncated or not an ONNX file (it holds no node)")
    return model


def load_program(path: str | Path) -> Program:
    """Read `program.onnx`.

    Raises:
        ArtifactError: the file is missing, truncated, foreign, or altered.
    """
    return from_onnx(load_model(path), str(path))
