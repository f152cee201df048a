"""What stands at the end of a graph and changes no decision: the client does it, or leaves it out.

`ArgMax`, `TopK`, `Softmax` and the like of a graph's output read numbers that are decrypted anyway.
The program ends before them, under the output's name, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import helper

LEFT_TO_CLIENT = "left_to_client"  # in a program's metadata
_LEFT_OUT = frozenset({"ArgMax", "TopK", "Softmax", "LogSoftmax", "Hardmax", "Sigmoid"})
_THROUGH = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"})


@dataclass(frozen=True)
class Ending:
    """Which tensor stands for each output, what was left out, which nodes are still needed."""

    tensor: dict[str, str]
    notes: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]


def ending_of(graph: onnx.GraphProto) -> Ending:
    """Where the program ends."""
    made_by = {output: node for node in graph.node for output in node.output}
    tensor: dict[str, str] = {}
    notes: list[str] = []
    for value in graph.output:
        tensor[value.name] = value.name
        place, passed = value.name, list[onnx.NodeProto]()
        while (node := made_by.get(place)) is not None:
            if node.domain not in ("", "ai.onnx") or node.op_type not in _LEFT_OUT | _THROUGH:
                break
            passed.append(node)
            place = node.input[0]
            if node.op_type in _LEFT_OUT:
                tensor[value.name] = place
                left = [n for n in passed if n.op_type in _LEFT_OUT][::-1]
                ops = ", ".join(map(_described, left))
        if tensor[value.name] != value.name:
            notes.append(f"{ops} of output '{value.name}'")
    return Ending(tensor, tuple(notes), tuple(_needed(graph, tensor.values())))


def _described(node: onnx.NodeProto) -> str:
    axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), None)
    return node.op_type if axis is None else f"{node.op_type} over axis {axis}"


def _needed(graph: onnx.GraphProto, outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that these tensors depend on, in their order."""
    wanted, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
