"""Constants, and elements in another order or shape: no bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxWriter
from torusformer.fhe_compile.program.operators.base import Encoder, Node, Shape
from torusformer.fhe_compile.program.operators.rules import ClearOperand, Moving
from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """A clear tensor; `inputs` is empty."""

    value: IntArray
    onnx_op: ClassVar[str] = "Constant"

    def count(self, shapes: Sequence[Shape]) -> int:
        """Its own."""
        return self.value.size

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The tensor."""
        return self.value

    def bound(self, args: Sequence[Interval]) -> Interval:
        """Itself."""
        return Interval(self.value, self.value)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """No noise."""
        return 0.0

    def encode(self, encoder: Encoder) -> None:
        """Clear."""
        encoder.constant(self, self.value)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Constant."""
        value = np.asarray(self.value, np.int64)
        writer.add(self.layer, self.onnx_op, [], self.name, value=value)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Constant."""
        return cls(found.name, found.layer, (), found.attribute("value"))


@dataclass(frozen=True, eq=False)
class Reshape(ClearOperand, Moving, Node):
    """x with another shape, same elements."""

    shape: tuple[int, ...]
    onnx_op: ClassVar[str] = "Reshape"
    clear_field: ClassVar[str] = "shape"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """In another shape."""
        return args[0].reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Transpose(Moving, Node):
    """x with its axes in the order `perm`."""

    perm: tuple[int, ...]
    onnx_op: ClassVar[str] = "Transpose"
    keeps_rows: ClassVar[bool] = False

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """In another order."""
        return np.transpose(args[0], self.perm)

    def encode(self, encoder: Encoder) -> None:
        """As it is, if anything changes: a square keeps its shape but not its order."""
        if self.perm == tuple(range(len(self.perm))):
            encoder.keep(self)
        else:
            encoder.apply(self)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Transpose."""
        writer.add(self.layer, self.onnx_op, self.inputs, self.name, perm=list(self.perm))

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Transpose."""
        perm = tuple(found.attribute("perm"))
        if sorted(perm) != list(range(len(perm))):
            raise ValueError(f"{perm} is no order of axes")
        return cls(found.name, found.layer, found.computed, perm)


@dataclass(frozen=True, eq=False)
class Slice(Moving, Node):
    """x[starts:ends:steps] over every axis; all three have x's rank and are non-negative."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    steps: tuple[int, ...]
    onnx_op: ClassVar[str] = "Slice"

    @property
    def index(self) -> tuple[slice, ...]:
        """The numpy index."""
        return tuple(slice(*s) for s in zip(self.starts, self.ends, self.steps, strict=True))

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The part."""
        return args[0][self.index]

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Slice, with all axes."""
        limits = [
            writer.clear(f"{self.name}.{part}", value)
            for part, value in (
                ("starts", self.starts),
                ("ends", self.ends),
                ("axes", list(range(len(self.starts)))),
                ("steps", self.steps),
            )
        ]
        writer.add(self.layer, self.onnx_op, [*self.inputs, *limits], self.name)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Slice, with all axes."""
        starts, ends = found.numbers(1), found.numbers(2)
        steps = found.numbers(4, least=1)
        return cls(found.name, found.layer, found.computed, starts, ends, steps)


@dataclass(frozen=True, eq=False)
class Concat(Moving, Node):
    """Inputs joined along `axis`."""

    axis: int
    onnx_op: ClassVar[str] = "Concat"

    def count(self, shapes: Sequence[Shape]) -> int:
        """Of all."""
        return sum(map(math.prod, shapes))

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """Joined."""
        return np.concatenate(tuple(args), axis=self.axis)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Concat."""
        writer.add(self.layer, self.onnx_op, self.inputs, self.name, axis=self.axis)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Concat."""
        axis = int(found.attribute("axis"))
        if axis < 0:
            raise ValueError(f"axis {axis}, axes count from 0")
        return cls(found.name, found.layer, found.computed, axis)


@dataclass(frozen=True, eq=False)
class Broadcast(ClearOperand, Moving, Node):
    """x repeated to `shape`."""

    shape: tuple[int, ...]
    onnx_op: ClassVar[str] = "Expand"
    clear_field: ClassVar[str] = "shape"
    keeps_rows: ClassVar[bool] = False

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """Repeated."""
        return np.broadcast_to(args[0], self.shape)
