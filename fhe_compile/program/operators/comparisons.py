"""Which of several encrypted numbers is the larger: a table a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxWriter
from torusformer.fhe_compile.program.operators.base import Node
from torusformer.fhe_compile.program.operators.rules import Expanded, Monotone, TwoOperands
from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class Max(Monotone, Expanded, TwoOperands, Node):
    """The larger of x and y element-wise, broadcast, both encrypted."""

    onnx_op: ClassVar[str] = "Max"
    expanded_by: ClassVar[str] = "expand_max"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The larger."""
        return np.maximum(args[0], args[1])


@dataclass(frozen=True, eq=False)
class ArgMax(Expanded, Node):
    """Along the last axis, 1 at the first of the largest numbers of x and 0 elsewhere.

    x has rank >= 2.
    """

    onnx_op: ClassVar[str] = "OneHot"
    expanded_by: ClassVar[str] = "expand_argmax"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """One-hot rows."""
        return np.eye(args[0].shape[-1], dtype=np.int64)[args[0].argmax(-1)]

    def bound(self, args: Sequence[Interval]) -> Interval:
        """Bits, one of which is set."""
        shape = args[0].shape
        return Interval(np.zeros(shape, np.int64), np.ones(shape, np.int64), one_hot=True)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """TopK (of equal numbers the first), Squeeze, OneHot."""
        (x,), out, layer = self.inputs, self.name, self.layer
        one, last = writer.clear(f"{out}.one", [1]), writer.clear(f"{out}.axis", [-1])
        count = writer.clear(f"{out}.count", writer.shapes[x][-1])
        place = writer.add(layer, "TopK", [x, one], f"{out}.largest", f"{out}.place")
        index = writer.add(layer, "Squeeze", [place, last], f"{out}.index")
        bits = writer.clear(f"{out}.bits", [0, 1])
        writer.add(layer, self.onnx_op, [index, count, bits], out)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Through Squeeze and TopK."""
        return cls(found.name, found.layer, found.part(0).part(0).inputs[:1])
