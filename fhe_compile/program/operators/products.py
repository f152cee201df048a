"""Products of two encrypted values: tables and sums, see `passes/products.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from torusformer.fhe_compile.program.operators.base import Node, Shape
from torusformer.fhe_compile.program.operators.rules import Corners, Expanded, TwoOperands
from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class Mul(Corners, Expanded, TwoOperands, Node):
    """x * y element-wise, broadcast, both encrypted."""

    onnx_op: ClassVar[str] = "Mul"
    expanded_by: ClassVar[str] = "expand_products"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The product."""
        return args[0] * args[1]

    def bound(self, args: Sequence[Interval]) -> Interval:
        """From the four corners; a square is never negative."""
        if self.inputs[0] != self.inputs[1]:
            return super().bound(args)
        x = args[0]
        big, small = np.maximum(abs(x.lo), abs(x.hi)), np.minimum(abs(x.lo), abs(x.hi))
        crosses = (x.lo <= 0) & (x.hi >= 0)
        return Interval(np.where(crosses, 0, small) ** 2, big**2)


@dataclass(frozen=True, eq=False)
class MatMul(Expanded, TwoOperands, Node):
    """x @ y, both encrypted, batched over leading axes; both have rank >= 2."""

    onnx_op: ClassVar[str] = "MatMul"
    expanded_by: ClassVar[str] = "expand_products"

    def count(self, shapes: Sequence[Shape]) -> int:
        """Of all rows with all columns."""
        (*batch, rows, count), (*other, inner, columns) = shapes
        if count != inner:
            raise ValueError(f"sums over {count} and over {inner}")
        return math.prod(np.broadcast_shapes(tuple(batch), tuple(other))) * rows * columns

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The product."""
        return args[0] @ args[1]

    def bound(self, args: Sequence[Interval]) -> Interval:
        """Each product of the sum over K from its own four corners: (..., M, N), K times."""
        x, y = args
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        lo, hi = (np.zeros((*batch, x.shape[-2], y.shape[-1]), x.lo.dtype) for _ in range(2))
        for k in range(x.shape[-1]):
            ends = [
                a[..., :, k, None] * b[..., k, None, :]
                for a, b in product((x.lo, x.hi), (y.lo, y.hi))
            ]
            lo += np.minimum.reduce(ends)
            hi += np.maximum.reduce(ends)
        return Interval(lo, hi)
