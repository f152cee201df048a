"""The integer program: what comes out of lowering and goes into every later stage.

A program is a list of nodes over integer tensors in static single assignment form. Each node is a
frozen dataclass that names its output (`name`), its inputs, and the layer of the model it came
from (`layer`, the tag under which bootstraps are counted). All arrays are int64.

>>> program = Program(
...     inputs=(Port("x", (1, 2), lo=0, hi=3),),
...     outputs=(Port("y", (1, 1), lo=0, hi=9),),
...     nodes=(
...         Linear("acc", "fc", ("x",), np.array([[1], [2]])),
...         Table("y", "fc", ("acc",), np.array(0), np.arange(10)),
...     ),
... )
>>> program.node("acc").weight.shape
(2, 1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torusformer.fhe_compile.program.ranges import Interval

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Port:
    """An input or output of a program: real = scale * (integer - zero_point).

    `lo` and `hi` bound every integer; `scale` and `zero_point` are scalars or broadcast over
    `shape` (a classifier with a bias per class has one zero point per class).

    A `one_hot` port holds bits, along the last axis exactly one of them set: an index, written so
    that looking it up in a clear table is linear.

    A port with a public `table` (P, V, D) holds, at each of T positions, the row of a token: of
    shape (1, T, D), P being 1 or T.
    """

    name: str
    shape: tuple[int, ...]
    lo: int
    hi: int
    scale: NDArray[np.float64] = field(default_factory=lambda: np.array(1.0))
    zero_point: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    one_hot: bool = False
    table: IntArray | None = None

    @property
    def vocabulary(self) -> int | None:
        """How many tokens there are, if the port takes tokens: whole numbers below it."""
        if self.table is not None:
            return self.table.shape[1]
        return self.shape[-1] if self.one_hot else None

    @property
    def bounds(self) -> tuple[IntArray, IntArray]:
        """The least and the largest that each element can be."""
        if self.table is None:
            lo, hi = (np.full(self.shape, end, np.int64) for end in (self.lo, self.hi))
            return lo, hi
        low, high = self.table.min(axis=1), self.table.max(axis=1)
        return np.broadcast_to(low, self.shape), np.broadcast_to(high, self.shape)

    @property
    def real_shape(self) -> tuple[int, ...]:
        """Of the real numbers, or of the tokens.

        Where zero points differ along the last axis, that axis is a code: each number is several
        integers, one for each zero point: bits of a unary code, say.
        """
        if self.vocabulary is not None:
            return self.shape[:-1]
        coded = self.zero_point.ndim == 1 and len(self.shape) > 1 and self.signed is False
        return self.shape[:-1] if coded and self.hi == 1 else self.shape

    @property
    def signed(self) -> bool:
        """Whether a negative integer can occur."""
        return self.lo < 0

    @property
    def bit_width(self) -> int:
        """Bits of the integer in two's complement if signed, else unsigned."""
        if self.signed:
            return max(int(self.hi).bit_length(), int(-self.lo - 1).bit_length()) + 1
        return max(1, int(self.hi).bit_length())


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. `op` is its name in tables and messages."""

    name: str
    layer: str
    inputs: tuple[str, ...]
    op: ClassVar[str] = "Node"

    def with_inputs(self, inputs: Iterable[str]) -> Node:
        """The same operation on other values."""
        return dataclasses.replace(self, inputs=tuple(inputs))


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """A clear tensor; `inputs` is empty."""

    value: IntArray
    op: ClassVar[str] = "Constant"


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """x @ weight, x (..., K) encrypted, weight (K, N) clear."""

    weight: IntArray
    op: ClassVar[str] = "Linear"


@dataclass(frozen=True, eq=False)
class Add(Node):
    """x + y, broadcast."""

    op: ClassVar[str] = "Add"


@dataclass(frozen=True, eq=False)
class Sub(Node):
    """x - y, broadcast."""

    op: ClassVar[str] = "Sub"


@dataclass(frozen=True, eq=False)
class AddConst(Node):
    """x + value, value clear; the shape stays that of x."""

    value: IntArray
    op: ClassVar[str] = "AddConst"


@dataclass(frozen=True, eq=False)
class Scale(Node):
    """x * factor, factor clear; the shape stays that of x."""

    factor: IntArray
    op: ClassVar[str] = "Scale"


@dataclass(frozen=True, eq=False)
class Sum(Node):
    """Sum over `axes` (non-negative, sorted)."""

    axes: tuple[int, ...]
    keepdims: bool
    op: ClassVar[str] = "Sum"


@dataclass(frozen=True, eq=False)
class Mul(Node):
    """x * y element-wise, broadcast, both encrypted."""

    op: ClassVar[str] = "Mul"


@dataclass(frozen=True, eq=False)
class Max(Node):
    """The larger of x and y element-wise, broadcast, both encrypted."""

    op: ClassVar[str] = "Max"


@dataclass(frozen=True, eq=False)
class ArgMax(Node):
    """Along the last axis, 1 at the first of the largest numbers of x and 0 elsewhere."""

    op: ClassVar[str] = "ArgMax"


@dataclass(frozen=True, eq=False)
class MatMul(Node):
    """x @ y, both encrypted, batched over leading axes; both have rank >= 2."""

    op: ClassVar[str] = "MatMul"


@dataclass(frozen=True, eq=False)
class Table(Node):
    """values[x + offset]: one programmable bootstrap an element.

    `offset` broadcasts to x's shape, `values` is flat: a table a channel is several tables laid
    end to end and an offset a channel. The proved range of x + offset lies inside `values`.

    One kept `apart` from an equal one has ciphertexts of its own, laid out for its own readers.

    Worked example: clip(x, 0, 2) for x in [-1, 4] is offset 1, values [0, 0, 1, 2, 2, 2].
    """

    offset: IntArray
    values: IntArray
    apart: bool = False
    op: ClassVar[str] = "Table"


@dataclass(frozen=True, eq=False)
class Round(Node):
    """floor(x / 2**lsbs), exact; add half of 2**lsbs before it to round to nearest."""

    lsbs: int
    op: ClassVar[str] = "Round"


@dataclass(frozen=True, eq=False)
class Reshape(Node):
    """x with another shape, same elements."""

    shape: tuple[int, ...]
    op: ClassVar[str] = "Reshape"


@dataclass(frozen=True, eq=False)
class Transpose(Node):
    """x with its axes in the order `perm`."""

    perm: tuple[int, ...]
    op: ClassVar[str] = "Transpose"


@dataclass(frozen=True, eq=False)
class Slice(Node):
    """x[starts:ends:steps] over every axis; all three have x's rank and are non-negative."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    steps: tuple[int, ...]
    op: ClassVar[str] = "Slice"

    @property
    def index(self) -> tuple[slice, ...]:
        """The numpy index."""
        return tuple(slice(*s) for s in zip(self.starts, self.ends, self.steps, strict=True))


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Inputs joined along `axis`."""

    axis: int
    op: ClassVar[str] = "Concat"


@dataclass(frozen=True, eq=False)
class Broadcast(Node):
    """x repeated to `shape`."""

    shape: tuple[int, ...]
    op: ClassVar[str] = "Broadcast"


@dataclass(frozen=True, eq=False)
class Program:
    """Nodes in topological order between input and output ports.

    `metadata` holds strings a later stage or a reader wants: task, labels, preset. `proved` bounds
    values by what interval arithmetic cannot see in these nodes: of a product, say, before it
    became a sum of tables. `strategies` says of a product that was expanded how it is computed.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    proved: Mapping[str, Interval] = field(default_factory=dict)
    strategies: Mapping[str, str] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        """The node that makes the value `name`."""
        return next(n for n in self.nodes if n.name == name)

    def consumers(self) -> dict[str, list[Node]]:
        """For every value, the nodes that read it."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
        return readers

    @cached_property
    def ranges(self) -> Mapping[str, Interval]:
        """The proved interval of every value by name, inputs included."""
        from torusformer.fhe_compile.program.ranges import analyze

        return analyze(self)

    def replace(self, **changes: object) -> Program:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def forgetting(self, names: Collection[str]) -> Program:
        """The same program without what was `proved` of values that are about to change."""
        kept = {name: reach for name, reach in self.proved.items() if name not in names}
        return dataclasses.replace(self, proved=kept)

    def rewritten(
        self, nodes: Iterable[Node], proved: Mapping[str, Interval] | None = None
    ) -> Program:
        """The same program of other nodes, with more `proved` of them.

        What was proved of values that are gone goes too; a value that stays must be the same.
        """
        nodes = tuple(nodes)
        names = {node.name for node in nodes}
        both = {**self.proved, **(proved or {})}
        kept = {name: reach for name, reach in both.items() if name in names}
        return dataclasses.replace(self, nodes=nodes, proved=kept)
