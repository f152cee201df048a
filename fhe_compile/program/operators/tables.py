"""What costs bootstraps by itself: any function of one number, and dropping low bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxWriter
from torusformer.fhe_compile.program.operators.base import Encoder, Node, Shape
from torusformer.fhe_compile.program.operators.rules import Monotone
from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.ranges import Interval


@dataclass(frozen=True, eq=False)
class Table(Node):
    """values[x + offset]: one programmable bootstrap an element.

    `offset` broadcasts to x's shape, `values` is flat: a table a channel is several tables laid
    end to end and an offset a channel. The proved range of x + offset lies inside `values`.

    One kept `apart` from an equal one has ciphertexts of its own, laid out for its own readers. It
    reads `least_bits` bits or more, where not all parameters of narrower ones suit it.

    Worked example: clip(x, 0, 2) for x in [-1, 4] is offset 1, values [0, 0, 1, 2, 2, 2].
    """

    offset: IntArray
    values: IntArray
    apart: bool = False
    least_bits: int = 1
    onnx_op: ClassVar[str] = "Gather"

    def count(self, shapes: Sequence[Shape]) -> int:
        """Of x; its shape stays."""
        if np.broadcast_shapes(shapes[0], self.offset.shape) != shapes[0]:
            raise ValueError(f"offsets {self.offset.shape} for {shapes[0]}")
        return math.prod(shapes[0])

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """What is looked up."""
        return self.values[args[0] + self.offset]

    def bound(self, args: Sequence[Interval]) -> Interval:
        """Of all that can be looked up, from the one end to the other."""
        (x,) = args
        first = np.broadcast_to(x.lo + self.offset, x.shape)
        last = np.broadcast_to(x.hi + self.offset, x.shape)
        spans, inverse = np.unique(
            np.stack([first.ravel(), last.ravel()], axis=1), axis=0, return_inverse=True
        )
        lo = np.array([self.values[a : b + 1].min() for a, b in spans], dtype=np.int64)
        hi = np.array([self.values[a : b + 1].max() for a, b in spans], dtype=np.int64)
        inverse = inverse.ravel()
        return Interval(lo[inverse].reshape(x.shape), hi[inverse].reshape(x.shape))

    def peak(self, args: Sequence[Interval]) -> float:
        """Of the index or of what is looked up."""
        entries = Interval(self.values, self.values).largest
        return max(args[0].largest + Interval(self.offset, self.offset).largest, entries)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """A fresh result."""
        return 1.0

    def encode(self, encoder: Encoder) -> None:
        """A lookup."""
        encoder.look_up(self, self.offset, self.values, self.apart, self.least_bits)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Add (the index), Gather (from the flat table)."""
        offset = writer.clear(f"{self.name}.offset", self.offset)
        values = writer.clear(f"{self.name}.values", self.values)
        index = writer.add(self.layer, "Add", [*self.inputs, offset], f"{self.name}.index")
        writer.add(self.layer, self.onnx_op, [values, index], self.name, axis=0)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Through Add."""
        index = found.part(1)
        if found.clear(0).ndim != 1:
            raise ValueError("a table that is not flat")
        return cls(found.name, found.layer, index.inputs[:1], index.clear(1), found.clear(0))


@dataclass(frozen=True, eq=False)
class Round(Monotone, Node):
    """floor(x / 2**lsbs), exact; add half of 2**lsbs before it to round to nearest.

    With `zeros`, all low bits are known to be zero: no bootstrap removes them.
    """

    lsbs: int
    zeros: bool = False
    onnx_op: ClassVar[str] = "Div"

    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """Without its low bits."""
        return args[0] >> self.lsbs

    def peak(self, args: Sequence[Interval]) -> float:
        """Of the input."""
        return args[0].largest

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """As before; `Truncate` counts what the bootstraps add."""
        return given[0]

    def encode(self, encoder: Encoder) -> None:
        """A truncation, and where the number stands."""
        encoder.round(self, self.lsbs, self.zeros)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Mod, Sub, Div: (x - x mod 2**lsbs) / 2**lsbs, the floor for either sign."""
        (x,), out, layer = self.inputs, self.name, self.layer
        step = writer.clear(f"{out}.step", 2**self.lsbs)
        low = writer.add(layer, "Mod", [x, step], f"{out}.low")
        high = writer.add(layer, "Sub", [x, low], f"{out}.high")
        writer.add(layer, self.onnx_op, [high, step], out)

    @classmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Through Sub and Mod."""
        step = int(found.clear(1))
        if step < 1 or step & (step - 1):
            raise ValueError(f"division by {step}, not a power of two")
        high = found.part(0)
        high.part(1)
        return cls(found.name, found.layer, high.inputs[:1], step.bit_length() - 1)
