"""Rules that several operators share; a class takes them by inheriting before `Node`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, ClassVar, NoReturn, Self

import numpy as np

from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxWriter
from torusformer.fhe_compile.program.operators.base import Encoder, Node, Shape
from torusformer.fhe_compile.program.ranges import Interval

if TYPE_CHECKING:  # what the rules are given to
    Operator = Node
else:
    Operator = object


class Monotone(Operator):
    """No smaller for larger inputs."""

    def bound(self, args: Sequence[Interval]) -> Interval:
        """From both ends."""
        lo, hi = self.evaluate([a.lo for a in args]), self.evaluate([a.hi for a in args])
        return Interval(np.asarray(lo), np.asarray(hi))


class Corners(Operator):
    """Monotone in each of two inputs, upwards or downwards."""

    def bound(self, args: Sequence[Interval]) -> Interval:
        """From the four corners."""
        ends = [self.evaluate([a, b]) for a, b in product(*((i.lo, i.hi) for i in args))]
        return Interval(np.minimum.reduce(ends), np.maximum.reduce(ends))


class Moving(Monotone):
    """Elements in another order; with `keeps_rows`, whole one-hot rows stay that."""

    keeps_rows: ClassVar[bool] = True

    def bound(self, args: Sequence[Interval]) -> Interval:
        """Of the same elements."""
        found = super().bound(args)
        rows = self.keeps_rows and all(arg.one_hot for arg in args)
        return Interval(found.lo, found.hi, rows and found.shape[-1:] == args[0].shape[-1:])

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """Of the noisiest input."""
        return max(given)

    def encode(self, encoder: Encoder) -> None:
        """As it is."""
        encoder.move(self)


class Adding(Operator):
    """Of two ciphertexts."""

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """Variances add up."""
        return sum(given)

    def encode(self, encoder: Encoder) -> None:
        """As it is."""
        encoder.apply(self)


class Expanded(Operator):
    """TFHE has no such operation: the pass `expanded_by` writes it in others."""

    expanded_by: ClassVar[str]

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> NoReturn:
        """Refused."""
        self._refuse()

    def encode(self, encoder: Encoder) -> NoReturn:
        """Refused."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(f"{self.layer}: {self.op} is not encoded; run {self.expanded_by} before")


class TwoOperands(Operator):
    """Both of them computed; ONNX has the same operation."""

    def count(self, shapes: Sequence[Shape]) -> int:
        """Of one spread over the other."""
        return math.prod(np.broadcast_shapes(*shapes))

    def write_onnx(self, writer: OnnxWriter) -> None:
        """One node."""
        writer.add(self.layer, self.onnx_op, self.inputs, self.name)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """One node."""
        two = len(found.computed) == 2
        return cls(found.name, found.layer, found.computed) if two else None


class ClearOperand(Operator):
    """The second one, kept in the field `clear_field`; ONNX has the same operation."""

    clear_field: ClassVar[str]

    def count(self, shapes: Sequence[Shape]) -> int:
        """Of the shape, or of one spread over the other."""
        clear = getattr(self, self.clear_field)
        if isinstance(clear, tuple):
            return math.prod(clear)
        return math.prod(np.broadcast_shapes(shapes[0], np.shape(clear)))

    def write_onnx(self, writer: OnnxWriter) -> None:
        """One node and an initializer."""
        clear = writer.clear(f"{self.name}.{self.clear_field}", getattr(self, self.clear_field))
        writer.add(self.layer, self.onnx_op, (*self.inputs, clear), self.name)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """One node and an initializer."""
        if len(found.computed) == 2:
            return None
        if found.computed != found.inputs[:1]:
            raise ValueError("the clear operand must come second")
        is_shape = cls.clear_field == "shape"
        clear = {cls.clear_field: found.numbers(1, least=1) if is_shape else found.clear(1)}
        return cls(found.name, found.layer, found.computed, **clear)
