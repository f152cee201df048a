"""Integer program to and from `program.onnx`: int64 and standard ONNX operators only.

| node | ONNX |
|---|---|
| Linear, MatMul | MatMul (weight an initializer, or both computed) |
| Add, AddConst | Add |
| Sub, Max | the same name |
| Scale, Mul | Mul |
| Sum | ReduceSum |
| Table | Add (index = x + offset), Gather (from the flat table) |
| Round | Mod, Sub, Div: (x - x mod 2^lsbs) / 2^lsbs, the floor for either sign |
| Constant, Reshape, Transpose, Slice, Concat | the same name |
| Broadcast | Expand |
| ArgMax | TopK (of equal numbers the first), Squeeze, OneHot |

A node's ONNX name is `<layer>/<value>`. The ports' scales, zero points and bounds, and the
program's metadata, are JSON under the metadata key `torusformer`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from torusformer import ArtifactError, __version__
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    ArgMax,
    Broadcast,
    Concat,
    Constant,
    IntArray,
    Linear,
    MatMul,
    Max,
    Mul,
    Node,
    Program,
    Reshape,
    Round,
    Scale,
    Slice,
    Sub,
    Sum,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.port_json import port_from_json, port_to_json
from torusformer.fhe_compile.program.ranges import analyze
from torusformer.versions import installed_versions

FORMAT = "torusformer-program"
FORMAT_VERSION = 1
METADATA_KEY = "torusformer"
OPSET = 17


class _Writer:
    """Collects the ONNX nodes and initializers of one program."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def clear(self, name: str, value: object) -> str:
        """Add a clear int64 tensor."""
        array = np.asarray(value, dtype=np.int64)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def add(self, layer: str, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add one ONNX node."""
        name = f"{layer}/{output}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def write(self, node: Node) -> None:
        """One program node as ONNX nodes."""
        x, out, layer = list(node.inputs), node.name, node.layer
        match node:
            case Constant():
                tensor = numpy_helper.from_array(np.asarray(node.value, np.int64))
                self.add(layer, "Constant", [], out, value=tensor)
            case Linear():
                self.add(layer, "MatMul", [x[0], self.clear(f"{out}.weight", node.weight)], out)
            case AddConst():
                self.add(layer, "Add", [x[0], self.clear(f"{out}.value", node.value)], out)
            case Scale():
                self.add(layer, "Mul", [x[0], self.clear(f"{out}.factor", node.factor)], out)
            case Add() | Sub() | Mul() | Max() | MatMul():
                self.add(layer, node.op, x, out)
            case Sum():
                axes = self.clear(f"{out}.axes", node.axes)
                self.add(layer, "ReduceSum", [x[0], axes], out, keepdims=int(node.keepdims))
            case Table():
                offset = self.clear(f"{out}.offset", node.offset)
                values = self.clear(f"{out}.values", node.values)
                index = self.add(layer, "Add", [x[0], offset], f"{out}.index")
                self.add(layer, "Gather", [values, index], out, axis=0)
            case Round():
                step = self.clear(f"{out}.step", 2**node.lsbs)
                low = self.add(layer, "Mod", [x[0], step], f"{out}.low")
                high = self.add(layer, "Sub", [x[0], low], f"{out}.high")
                self.add(layer, "Div", [high, step], out)
            case Reshape():
                self.add(layer, "Reshape", [x[0], self.clear(f"{out}.shape", node.shape)], out)
            case Broadcast():
                self.add(layer, "Expand", [x[0], self.clear(f"{out}.shape", node.shape)], out)
            case Transpose():
                self.add(layer, "Transpose", x, out, perm=list(node.perm))
            case Slice():
                rank = range(len(node.starts))
                limits = [
                    self.clear(f"{out}.{part}", value)
                    for part, value in (
                        ("starts", node.starts),
                        ("ends", node.ends),
                        ("axes", list(rank)),
                        ("steps", node.steps),
                    )
                ]
                self.add(layer, "Slice", [x[0], *limits], out)
            case Concat():
                self.add(layer, "Concat", x, out, axis=node.axis)
            case ArgMax():
                self._arg_max(layer, x[0], out)
            case _:
                raise TypeError(f"no ONNX form for {type(node).__name__}")

    def _arg_max(self, layer: str, x: str, out: str) -> None:
        one, last = self.clear(f"{out}.one", [1]), self.clear(f"{out}.axis", [-1])
        count = self.clear(f"{out}.count", self.shapes[x][-1])
        names = [f"{out}.largest", f"{out}.place"]
        self.nodes.append(helper.make_node("TopK", [x, one], names, name=f"{layer}/{out}.place"))
        index = self.add(layer, "Squeeze", [f"{out}.place", last], f"{out}.index")
        self.add(layer, "OneHot", [index, count, self.clear(f"{out}.bits", [0, 1])], out)


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
    writer = _Writer({name: reach.shape for name, reach in analyze(program).items()})
    for node in program.nodes:
        writer.write(node)
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
    """The program nodes that `_Writer` wrote; KeyError or ValueError on anything else."""
    clear = {t.name: numpy_helper.to_array(t).astype(np.int64) for t in graph.initializer}
    made = {o: n for n in graph.node for o in n.output}
    parts: set[str] = set()  # outputs that are inner steps of a Table or Round

    def shape_of(array: IntArray) -> tuple[int, ...]:
        return tuple(int(v) for v in array)

    def read(proto: onnx.NodeProto) -> Node:
        out, x = proto.output[0], list(proto.input)
        layer = proto.name.rsplit("/", 1)[0]
        attr = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        computed = tuple(i for i in x if i not in clear)
        match proto.op_type:
            case "Constant":
                return Constant(out, layer, (), numpy_helper.to_array(attr["value"]))
            case "Gather":
                index = made[x[1]]
                parts.add(x[1])
                return Table(out, layer, (index.input[0],), clear[index.input[1]], clear[x[0]])
            case "Div":
                step = int(clear[x[1]])
                if step < 1 or step & (step - 1):
                    raise ValueError(f"division by {step}, not a power of two")
                high = made[x[0]]
                parts.update((x[0], high.input[1]))
                return Round(out, layer, (high.input[0],), int(math.log2(step)))
            case "ReduceSum":
                return Sum(out, layer, computed, shape_of(clear[x[1]]), bool(attr["keepdims"]))
            case "Reshape":
                return Reshape(out, layer, computed, shape_of(clear[x[1]]))
            case "Expand":
                return Broadcast(out, layer, computed, shape_of(clear[x[1]]))
            case "Transpose":
                return Transpose(out, layer, computed, tuple(attr["perm"]))
            case "Slice":
                starts, ends, _, steps = (shape_of(clear[i]) for i in x[1:])
                return Slice(out, layer, computed, starts, ends, steps)
            case "Concat":
                return Concat(out, layer, computed, int(attr["axis"]))
            case "OneHot":
                index = made[x[0]]
                parts.update((x[0], index.input[0]))
                return ArgMax(out, layer, (made[index.input[0]].input[0],))
        both: dict[str, type[Node]] = {
            "MatMul": MatMul, "Add": Add, "Sub": Sub, "Mul": Mul, "Max": Max,
        }  # fmt: skip
        with_clear: dict[str, Callable[..., Node]] = {
            "MatMul": Linear,
            "Add": AddConst,
            "Mul": Scale,
        }
        if len(computed) == 2:
            return both[proto.op_type](out, layer, computed)
        if computed != (x[0],):
            raise ValueError("the clear operand must come second")
        return with_clear[proto.op_type](out, layer, computed, clear[x[1]])

    # Outermost first: a Gather or Div claims its inner steps before they are read.
    nodes = []
    for proto in reversed(graph.node):
        if not parts.intersection(proto.output):
            if proto.op_type == "Mod":
                raise ValueError("Mod outside a rounding")
            nodes.append(read(proto))
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
        ranges = analyze(program)
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
