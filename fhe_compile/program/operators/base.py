"""What every operator of an integer program says of itself, and the list of all operators.

An operator is one class with a rule for every stage. It enters `OPERATORS` where it is defined, and
one that lacks a rule is refused there.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np

from torusformer.fhe_compile.program.onnx_form import OnnxNode, OnnxWriter
from torusformer.fhe_compile.program.port import IntArray
from torusformer.fhe_compile.program.ranges import (
    MAX_NUMBERS,
    Interval,
    refuse_large,
    refuse_many,
)

Shape = tuple[int, ...]
OPERATORS: dict[str, type[Node]] = {}  # by name, in the order of definition


def refuse_missing_rules(cls: type) -> None:
    """A TypeError for a class that leaves any of its abstract methods out."""
    rules = (name for name in dir(cls) if name != "__abstractmethods__")
    missing = [r for r in rules if getattr(getattr(cls, r), "__isabstractmethod__", False)]
    if missing:
        raise TypeError(f"{cls.__name__} lacks {', '.join(missing)}")


class Encoder(Protocol):
    """What TFHE can do with the inputs of a node; each call encodes the node's value.

    A value is encoded as `rep + base`: a ciphertext, and a clear number an element.
    """

    def constant(self, node: Node, value: IntArray) -> None:
        """The value is known to all."""

    def keep(self, node: Node) -> None:
        """The ciphertexts of the only input, unchanged; `node.evaluate` gives the base."""

    def move(self, node: Node) -> None:
        """Ciphertexts in another order; unchanged where one input keeps its shape."""

    def apply(self, node: Node) -> None:
        """`node.evaluate` on ciphertexts and on bases: additions, clear factors, moves."""

    def unrounds(self, node: Node, factor: IntArray) -> bool:
        """Whether the input is a rounding and `factor` only restores its place; then encoded."""

    def round(self, node: Node, lsbs: int, zeros: bool) -> None:
        """Remove low bits, a bootstrap each, or none where all of them are `zeros`."""

    def look_up(
        self, node: Node, offset: IntArray, values: IntArray, apart: bool, least: int
    ) -> None:
        """`values[x + offset]`, a bootstrap an element; `apart`: in a layout of its own.

        It reads `least` bits or more, where it can.
        """

    def leave_parts(self, node: Node) -> None:
        """An output is a sum over the first axis of the only input; the client adds it up."""


@dataclass(frozen=True, eq=False)
class Node(ABC):
    """One operation of a program on `inputs`; `layer` is where in the model it comes from.

    `op` is its name in tables and messages, `onnx_op` the ONNX node that ends its form.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]
    op: ClassVar[str]
    onnx_op: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.op = cls.__name__
        refuse_missing_rules(cls)
        if not cls.onnx_op:
            raise TypeError(f"{cls.op} lacks onnx_op")
        OPERATORS[cls.op] = cls

    @abstractmethod
    def evaluate(self, args: Sequence[IntArray]) -> IntArray:
        """The value, of integers; where `encode` applies it, of Concrete's tracers too."""

    @abstractmethod
    def bound(self, args: Sequence[Interval]) -> Interval:
        """The range of the value, from those of the inputs; of arrays of floats too."""

    def peak(self, args: Sequence[Interval]) -> float:
        """The largest magnitude met on the way to the value.

        From both signs of the largest inputs, in floating point: there no two terms cancel.
        """
        most = [np.maximum(*(abs(end.astype(np.float64)) for end in (x.lo, x.hi))) for x in args]
        return self.bound([Interval(-size, size) for size in most]).largest

    def count(self, shapes: Sequence[Shape]) -> int:
        """How many numbers the value has at most; unless said, as many as the largest input."""
        return max(map(math.prod, shapes))

    def reach(self, args: Sequence[Interval], room: int = MAX_NUMBERS) -> Interval:
        """`bound`, exactly.

        Raises:
            BitWidthError: int64 may not hold what is computed, or there are over `room` numbers.
        """
        place = f"{self.layer}: {self.op} {self.name!r}"
        refuse_many(place, self.count([arg.shape for arg in args]), room)
        refuse_large(place, self.peak(args))
        return self.bound(args)

    @abstractmethod
    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """How many times the variance of a table's result the value has at most.

        `given` is that of each input, `shapes` are the inputs' shapes.
        """

    @abstractmethod
    def encode(self, encoder: Encoder) -> None:
        """What TFHE is to do; a TypeError for an operator that a pass expands before."""

    @abstractmethod
    def write_onnx(self, writer: OnnxWriter) -> None:
        """As ONNX nodes, the last of which is an `onnx_op` that makes the value."""

    @classmethod
    @abstractmethod
    def read_onnx(cls, found: OnnxNode) -> Self | None:
        """Inverse of `write_onnx`, from the last node; None if that has another operator's form."""

    def with_inputs(self, inputs: Iterable[str]) -> Self:
        """The same operation on other values."""
        return dataclasses.replace(self, inputs=tuple(inputs))

    @property
    def content(self) -> tuple[object, ...]:
        """Equal contents, equal operations: the operator and its fields, arrays by content."""
        fields = (f.name for f in dataclasses.fields(self))
        values = (getattr(self, f) for f in fields if f not in ("name", "layer", "inputs"))
        return (
            self.op,
            *(
                (v.shape, v.astype(np.int64).tobytes()) if isinstance(v, np.ndarray) else v
                for v in values
            ),
        )
