"""Operators to ONNX nodes and back, one at a time: what their `write_onnx` and `read_onnx` use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from torusformer.fhe_compile.program.port import IntArray


class OnnxWriter:
    """Collects the ONNX nodes and initializers of one program; `shapes` are those of its values."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def clear(self, name: str, value: object) -> str:
        """Add a clear int64 tensor; returns its name."""
        array = np.asarray(value, dtype=np.int64)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def add(
        self, layer: str, op: str, inputs: Sequence[str], *outputs: str, **attributes: Any
    ) -> str:
        """Add one ONNX node, called `<layer>/<last output>`; returns that output."""
        attributes = {
            name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            for name, value in attributes.items()
        }
        name = f"{layer}/{outputs[-1]}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs[-1]


class OnnxReader:
    """The ONNX nodes of one graph; `claimed` are outputs that are part of another node's form."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.clear: dict[str, IntArray] = {}
        for tensor in graph.initializer:
            if tensor.data_type != onnx.TensorProto.INT64:
                raise ValueError(f"tensor '{tensor.name}' is not of int64")
            self.clear[tensor.name] = numpy_helper.to_array(tensor)
        self.made = {output: node for node in graph.node for output in node.output}
        self.claimed: set[str] = set()


class OnnxNode:
    """One ONNX node as an operator reads it; a KeyError or IndexError for what is not there."""

    def __init__(self, reader: OnnxReader, proto: onnx.NodeProto) -> None:
        self._reader, self._proto = reader, proto
        self.op, self.inputs, self.name = proto.op_type, tuple(proto.input), proto.output[0]
        self.layer = proto.name.rsplit("/", 1)[0]

    @property
    def computed(self) -> tuple[str, ...]:
        """Inputs that are no clear tensors."""
        return tuple(name for name in self.inputs if name not in self._reader.clear)

    def clear(self, position: int) -> IntArray:
        """A clear input."""
        return self._reader.clear[self.inputs[position]]

    def numbers(self, position: int, least: int = 0) -> tuple[int, ...]:
        """A clear input of one axis: a shape, or axes; a ValueError for numbers under `least`."""
        found = tuple(int(number) for number in self.clear(position))
        if any(number < least for number in found):
            raise ValueError(f"{found} where numbers from {least} up belong")
        return found

    def attribute(self, name: str) -> Any:
        """Its value: an integer, a list, or an array."""
        value = next((a for a in self._proto.attribute if a.name == name), None)
        if value is None:
            raise ValueError(f"{self.op} of {self.name} lacks {name}")
        found = helper.get_attribute_value(value)
        return numpy_helper.to_array(found) if isinstance(found, onnx.TensorProto) else found

    def part(self, position: int) -> OnnxNode:
        """The ONNX node that makes an input and belongs to the same operator."""
        name = self.inputs[position]
        self._reader.claimed.add(name)
        return OnnxNode(self._reader, self._reader.made[name])
