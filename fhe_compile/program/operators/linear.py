"""Sums, and products with clear integers: no bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxWriter
from torusformer.fhe_compile.program.operators.base import Encoder, Node, Shape
from torusformer.fhe_compile.program.operators.rules import (
    Adding,
    ClearOperand,
    Monotone,
    TwoOperands,
)
from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class Linear(ClearOperand, Node):
    """x @ weight, x (..., K) encrypted, weight (K, N) clear."""

    weight: IntArray
    onnx_op: ClassVar[str] = "MatMul"
    clear_field: ClassVar[str] = "weight"

    def count(self, shapes: Sequence[Shape]) -> int:
        """A row of outputs for each row."""
        rows, outputs = self.weight.shape
        if shapes[0][-1:] != (rows,):
            raise ValueError(f"{shapes[0]} times {self.weight.shape}")
        return math.prod(shapes[0][:-1]) * outputs

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The product."""
        return args[0] @ self.weight

    def bound(self, args: Sequence[Interval]) -> Interval:
        """Of a sum; of an index, the rows of the weight."""
        (x,) = args
        if x.one_hot:
            shape = (*x.shape[:-1], self.weight.shape[1])
            lo, hi = self.weight.min(0), self.weight.max(0)
            return Interval(np.broadcast_to(lo, shape), np.broadcast_to(hi, shape))
        up, down = np.maximum(self.weight, 0), np.minimum(self.weight, 0)
        return Interval(x.lo @ up + x.hi @ down, x.hi @ up + x.lo @ down)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """Of the heaviest column."""
        return given[0] * float((self.weight.astype(np.float64) ** 2).sum(0).max(initial=0))

    def encode(self, encoder: Encoder) -> None:
        """As it is."""
        encoder.apply(self)


@dataclass(frozen=True, eq=False)
class Add(Monotone, Adding, TwoOperands, Node):
    """x + y, broadcast."""

    onnx_op: ClassVar[str] = "Add"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The sum."""
        return args[0] + args[1]


@dataclass(frozen=True, eq=False)
class Sub(Adding, TwoOperands, Node):
    """x - y, broadcast."""

    onnx_op: ClassVar[str] = "Sub"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The difference."""
        return args[0] - args[1]

    def bound(self, args: Sequence[Interval]) -> Interval:
        """From opposite ends."""
        return Interval(args[0].lo - args[1].hi, args[0].hi - args[1].lo)


@dataclass(frozen=True, eq=False)
class AddConst(Monotone, ClearOperand, Node):
    """x + value, value clear; the shape stays that of x."""

    value: IntArray
    onnx_op: ClassVar[str] = "Add"
    clear_field: ClassVar[str] = "value"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The sum."""
        return args[0] + self.value

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """As before."""
        return given[0]

    def encode(self, encoder: Encoder) -> None:
        """Only the base moves."""
        encoder.keep(self)


@dataclass(frozen=True, eq=False)
class Scale(ClearOperand, Node):
    """x * factor, factor clear; the shape stays that of x."""

    factor: IntArray
    onnx_op: ClassVar[str] = "Mul"
    clear_field: ClassVar[str] = "factor"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The product."""
        return args[0] * self.factor

    def bound(self, args: Sequence[Interval]) -> Interval:
        """From both ends, whatever the sign of the factor."""
        ends = args[0].lo * self.factor, args[0].hi * self.factor
        return Interval(np.minimum(*ends), np.maximum(*ends))

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """Of the largest factor."""
        return given[0] * float((self.factor.astype(np.float64) ** 2).max(initial=0))

    def encode(self, encoder: Encoder) -> None:
        """As it is, if the factor changes anything."""
        if encoder.unrounds(self, self.factor):
            return
        if (self.factor == 1).all():
            encoder.keep(self)
        else:
            encoder.apply(self)


@dataclass(frozen=True, eq=False)
class Sum(Monotone, Node):
    """Sum over `axes` (non-negative, sorted).

    An output's sum over its first axis may be done `by_client`, who gets all that is summed up.
    """

    axes: tuple[int, ...]
    keepdims: bool
    by_client: bool = False
    onnx_op: ClassVar[str] = "ReduceSum"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The sum."""
        total: IntArray = np.sum(args[0], axis=self.axes, keepdims=self.keepdims)
        return total

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """As many as there are terms."""
        return given[0] * math.prod(shapes[0][axis] for axis in self.axes)

    def encode(self, encoder: Encoder) -> None:
        """As it is, or not at all."""
        if self.by_client:
            encoder.leave_parts(self)
        else:
            encoder.apply(self)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """ReduceSum with axes as an initializer; who sums up is no matter of what it is."""
        axes = writer.clear(f"{self.name}.axes", self.axes)
        inputs, keepdims = (*self.inputs, axes), int(self.keepdims)
        writer.add(self.layer, self.onnx_op, inputs, self.name, keepdims=keepdims)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """ReduceSum with axes as an initializer."""
        keepdims = bool(found.attribute("keepdims"))
        axes = found.numbers(1)
        if not axes:
            raise ValueError("a sum over no axis")
        return cls(found.name, found.layer, found.computed, axes, keepdims)
