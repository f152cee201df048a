"""The unsigned tensor operations that a circuit is traced from and a plan is counted from.

Seven are enough: whatever is linear or moves elements is an `Apply` of the program's own operator.
Operands and result of an operation share one layout (the position of the message in the
ciphertext), except for a lookup, which moves to another.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.program.nodes import IntArray, Node
from torusformer.fhe_compile.program.operators.base import refuse_missing_rules

Shape = tuple[int, ...]


class Backend(Protocol):
    """What a compiler of circuits, or numpy, has beside arithmetic on its tensors."""

    def zeros(self, shape: Shape) -> Any:
        """Encrypted zeros."""

    def look_up(self, x: Any, tables: IntArray, mapping: NDArray[np.intp] | None) -> Any:
        """The entry of each element in the only table, or in that which `mapping` gives it.

        Behind its end a table stands once more, negated, and so on.
        """

    def truncate(self, x: Any, lsbs: int) -> Any:
        """x with its low bits cleared."""

    def drop(self, x: Any, lsbs: int) -> Any:
        """x, whose low bits are zero, for a table that reads the others."""


@dataclass(frozen=True, eq=False)
class TensorOp(ABC):
    """One operation on unsigned representations; `args` are indices of earlier operations.

    `layer` is where in the model it comes from, `tag` adds the value: what Concrete counts under.
    `bits` is what the result must hold: proved where it is read, 1 where it may wrap.
    """

    args: tuple[int, ...]
    shape: Shape
    layer: str
    tag: str
    bits: int = field(default=1, kw_only=True)
    moves_layout: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        refuse_missing_rules(cls)

    @abstractmethod
    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """The result on tensors of a backend; `bits` are those of the arguments."""

    @abstractmethod
    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """How many times the variance of a table's result it has at most, from its arguments'."""

    @property
    @abstractmethod
    def content(self) -> tuple[object, ...]:
        """Two operations with equal arguments, shapes and contents compute the same."""

    @property
    def size(self) -> int:
        """Number of ciphertexts in the result."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Input(TensorOp):
    """What the client encrypts, or what comes in on a wire: there, a table's result."""

    wired: bool = False

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """Given from outside."""
        raise TypeError(f"{self.tag} is an input")

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """Fresh from the client: next to nothing."""
        return float(self.wired)

    @property
    def content(self) -> tuple[object, ...]:
        """By name."""
        return ("input", self.tag)


@dataclass(frozen=True, eq=False)
class Zeros(TensorOp):
    """What is known to all: its numbers are in the base."""

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """Zeros."""
        return backend.zeros(self.shape)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """No noise."""
        return 0.0

    @property
    def content(self) -> tuple[object, ...]:
        """Nothing else."""
        return ("zeros",)


@dataclass(frozen=True, eq=False)
class AddClear(TensorOp):
    """x + offset, so that what is read lies in [0, 2**bits)."""

    offset: IntArray

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """The sum."""
        return args[0] + self.offset

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """As before."""
        return given[0]

    @property
    def content(self) -> tuple[object, ...]:
        """By offset."""
        return ("add_clear", self.offset.shape, self.offset.tobytes())


@dataclass(frozen=True, eq=False)
class Wrap(AddClear):
    """x + offset, of which the one table that reads it sees no more than modulo 2**(bits + 1)."""

    @property
    def content(self) -> tuple[object, ...]:
        """By offset and ring: other tables may read the same sum in another one."""
        return ("wrap", self.bits, self.offset.shape, self.offset.tobytes())


@dataclass(frozen=True, eq=False)
class Apply(TensorOp):
    """A program's operator that acts alike on representations and on bases."""

    node: Node

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """The same on tensors."""
        return self.node.evaluate(args)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """The operator's."""
        return self.node.squared_weights(given, shapes)

    @property
    def content(self) -> tuple[object, ...]:
        """The operator's."""
        return self.node.content


@dataclass(frozen=True, eq=False)
class Lookup(TensorOp):
    """One of `tables` (n, 2**bits read) for each element: that which `mapping` names, if n > 1.

    With `lsbs`, it reads a truncation of that many bits. One that is `apart` shares its result's
    layout with no equal one.
    """

    tables: IntArray
    mapping: NDArray[np.intp] | None
    lsbs: int = 0
    apart: bool = False
    moves_layout: ClassVar[bool] = True

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """A truncated number keeps its place: an entry repeats for every value of dropped bits."""
        tables = np.repeat(self.tables, 2**self.lsbs, axis=1)
        missing = 2 ** bits[0] - tables.shape[1]
        tables = np.pad(tables, ((0, 0), (0, missing)), mode="edge")
        return backend.look_up(args[0], tables, self.mapping)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """A fresh result."""
        return 1.0

    @property
    def content(self) -> tuple[object, ...]:
        """By what it gives."""
        mapping = None if self.mapping is None else self.mapping.tobytes()
        tables = self.tables.shape, self.tables.tobytes()
        return ("lookup", *tables, mapping, self.lsbs, self.apart)


@dataclass(frozen=True, eq=False)
class Truncate(TensorOp):
    """x with `lsbs` low bits cleared, a bootstrap each."""

    lsbs: int

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """Concrete's operation of that name."""
        return backend.truncate(args[0], self.lsbs)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """Each bit removed adds a bootstrap's noise."""
        return given[0] + self.lsbs

    @property
    def content(self) -> tuple[object, ...]:
        """How many."""
        return ("truncate", self.lsbs)


@dataclass(frozen=True, eq=False)
class Drop(TensorOp):
    """x, of which a table need not read `lsbs` low bits: they are zero."""

    lsbs: int

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """No bootstrap."""
        return backend.drop(args[0], self.lsbs)

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """As before."""
        return given[0]

    @property
    def content(self) -> tuple[object, ...]:
        """How many."""
        return ("drop", self.lsbs)
