"""Norms and softmax as exporters write them, in several nodes, in; one node for each out.

* c / sqrt(mean of c² + epsilon), as a quotient, a product with the reciprocal, or a power: a norm,
  centred where c is x minus its mean.
* exp(x − max x) / Σ exp(x − max x), or without the maximum: `Softmax`.

Gain and bias stay behind it. What is inside and read elsewhere too stays as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

NORMALISE = "torusformer.Normalise"  # of no standard: it lives between here and `decompose`


class _Graph:
    """Who makes what, and constants."""

    def __init__(self, graph: onnx.GraphProto, ranks: Mapping[str, int]) -> None:
        self.graph, self.ranks = graph, ranks
        self.maker = {output: node for node in graph.node for output in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def made_by(self, name: str, *ops: str) -> onnx.NodeProto | None:
        """The node behind a value, if it is one of these."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type in ops else None

    def number(self, name: str) -> float | None:
        """The one number of a constant."""
        value = self.constants.get(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def same(self, first: str, second: str) -> bool:
        """Whether two values are one, or made by equal nodes of equal operands."""
        if first == second:
            return True
        a, b = self.maker.get(first), self.maker.get(second)
        if a is None or b is None or a.op_type != b.op_type or len(a.input) != len(b.input):
            one, other = self.constants.get(first), self.constants.get(second)
            return one is not None and other is not None and np.array_equal(one, other)
        return list(a.attribute) == list(b.attribute) and all(map(self.same, a.input, b.input))

    def along_last(self, node: onnx.NodeProto) -> bool:
        """Whether a reduction is along the last axis, and keeps it."""
        attr = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axes = attr.get("axes")
        if axes is None and len(node.input) > 1:
            given = self.constants.get(node.input[1])
            axes = None if given is None else given.ravel().tolist()
        last = self.ranks.get(node.input[0], 0) - 1
        return list(axes or ()) in ([-1], [last]) and bool(attr.get("keepdims", 1))

    def norms(self) -> Iterator[tuple[onnx.NodeProto, str, float, bool]]:
        """Each last node of a norm, what is normalised, epsilon, whether it is centred."""
        for node in self.graph.node:
            for c, sigma in self._quotients(node):
                found = self._second_moment(sigma)
                if found is None or not self.same(found[0], c):
                    continue
                x = self._centred(c)
                yield node, c if x is None else x, found[1], x is not None
                break

    def _quotients(self, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
        """Pairs (c, name of σ² + epsilon) that the node might be c / σ of."""
        if node.op_type == "Div" and (root := self.made_by(node.input[1], "Sqrt")):
            yield node.input[0], root.input[0]
        power = self.made_by(node.input[1], "Pow") if node.op_type == "Div" else None
        if power is not None and self.number(power.input[1]) == 0.5:
            yield node.input[0], power.input[0]
        if node.op_type != "Mul":
            return
        for c, factor in _both_ways(node):
            inverse = self.made_by(factor, "Reciprocal", "Div", "Pow")
            if inverse is None:
                continue
            if inverse.op_type == "Pow":
                if self.number(inverse.input[1]) == -0.5:
                    yield c, inverse.input[0]
                continue
            if inverse.op_type == "Div" and self.number(inverse.input[0]) != 1:
                continue
            if root := self.made_by(inverse.input[-1], "Sqrt"):
                yield c, root.input[0]

    def _second_moment(self, name: str) -> tuple[str, float] | None:
        """What the mean square is of, and epsilon."""
        epsilon = 0.0
        if add := self.made_by(name, "Add"):
            for value, other in _both_ways(add):
                number = self.number(other)
                if number is not None:
                    name, epsilon = value, number
        mean = self.made_by(name, "ReduceMean")
        if mean is None or not self.along_last(mean):
            return None
        square = self.made_by(mean.input[0], "Pow", "Mul")
        if square is None:
            return None
        base, other = square.input
        twice = self.number(other) == 2 if square.op_type == "Pow" else self.same(base, other)
        return (base, epsilon) if twice else None

    def _centred(self, c: str) -> str | None:
        """x where c is x minus its mean."""
        sub = self.made_by(c, "Sub")
        if sub is None:
            return None
        mean = self.made_by(sub.input[1], "ReduceMean")
        fits = mean is not None and self.along_last(mean) and self.same(mean.input[0], sub.input[0])
        return sub.input[0] if fits else None

    def softmaxes(self) -> Iterator[tuple[onnx.NodeProto, str]]:
        """Each quotient of an exponential by its sum along the last axis, and the scores."""
        for node in self.graph.node:
            if node.op_type != "Div":
                continue
            top, total = (
                self.made_by(node.input[0], "Exp"),
                self.made_by(node.input[1], "ReduceSum"),
            )
            if not top or not total or not self.along_last(total):
                continue
            if not self.same(total.input[0], node.input[0]):
                continue
            yield node, self._before_maximum(top.input[0])

    def _before_maximum(self, name: str) -> str:
        """The x of x - max x."""
        sub = self.made_by(name, "Sub")
        most = None if sub is None else self.made_by(sub.input[1], "ReduceMax")
        if sub is None or most is None or not self.along_last(most):
            return name
        return sub.input[0] if self.same(most.input[0], sub.input[0]) else name


def _both_ways(node: onnx.NodeProto) -> tuple[tuple[str, str], tuple[str, str]]:
    first, second = node.input
    return (first, second), (second, first)


def with_composites(model: onnx.ModelProto, ranks: Mapping[str, int]) -> onnx.ModelProto:
    """The model with one node for each norm and softmax; `ranks` of its tensors, by name."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = _Graph(found.graph, ranks)
    instead: dict[str, onnx.NodeProto] = {}
    for node, x, epsilon, centred in graph.norms():
        instead[node.output[0]] = helper.make_node(
            NORMALISE, [x], list(node.output), node.name, epsilon=epsilon, centred=int(centred)
        )
    for node, scores in graph.softmaxes():
        instead[node.output[0]] = helper.make_node(
            "Softmax", [scores], list(node.output), node.name, axis=-1
        )
    if not instead:
        return found
    kept = [instead.get(node.output[0], node) for node in found.graph.node]
    read = {value.name for value in found.graph.output}
    alive: list[onnx.NodeProto] = []
    for node in reversed(kept):
        if read.intersection(node.output):
            read.update(node.input)
            alive.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(alive)]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found
