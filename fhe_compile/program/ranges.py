"""Integer program in, proved range of every element of every value out.

Interval arithmetic per element: exact for everything linear in independent inputs, for tables and
for rounding; for a product it takes the four corners. Nothing is sampled, so a value outside its
range cannot occur for any input inside the input ports' bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from torusformer.fhe_compile.program.interpret import evaluate
from torusformer.fhe_compile.program.nodes import (
    ArgMax,
    Concat,
    Constant,
    IntArray,
    Linear,
    MatMul,
    Mul,
    Node,
    Port,
    Program,
    Reshape,
    Scale,
    Slice,
    Sub,
    Table,
)


@dataclass(frozen=True, eq=False)
class Interval:
    """Element-wise lo <= value <= hi; both arrays have the value's shape.

    Of `one_hot` bits exactly one along the last axis is set.
    """

    lo: IntArray
    hi: IntArray
    one_hot: bool = False

    @classmethod
    def of(cls, port: Port) -> Interval:
        """Of what comes in through a port."""
        lo, hi = port.bounds
        return cls(lo, hi, port.one_hot)

    def within(self, other: Interval) -> Interval:
        """What both allow."""
        one_hot = self.one_hot or other.one_hot
        return Interval(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi), one_hot)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.lo.shape

    @property
    def span_bits(self) -> int:
        """Bits of the widest element after subtracting its own minimum: what a table pays for."""
        return max(1, int((self.hi - self.lo).max()).bit_length())


def _corners(node: Node, args: list[Interval]) -> Interval:
    ends = [evaluate(node, [a, b]) for a, b in product(*((i.lo, i.hi) for i in args))]
    return Interval(np.minimum.reduce(ends), np.maximum.reduce(ends))


def _matmul(x: Interval, y: Interval) -> Interval:
    # Each product of the sum has its own four corners: (..., M, K, N), summed over K.
    ends = [a[..., :, :, None] * b[..., None, :, :] for a, b in product((x.lo, x.hi), (y.lo, y.hi))]
    return Interval(np.minimum.reduce(ends).sum(axis=-2), np.maximum.reduce(ends).sum(axis=-2))


def _table(node: Table, x: Interval) -> Interval:
    first = np.broadcast_to(x.lo + node.offset, x.shape)
    last = np.broadcast_to(x.hi + node.offset, x.shape)
    spans, inverse = np.unique(
        np.stack([first.ravel(), last.ravel()], axis=1), axis=0, return_inverse=True
    )
    lo = np.array([node.values[a : b + 1].min() for a, b in spans], dtype=np.int64)
    hi = np.array([node.values[a : b + 1].max() for a, b in spans], dtype=np.int64)
    inverse = inverse.ravel()
    return Interval(lo[inverse].reshape(x.shape), hi[inverse].reshape(x.shape))


def bound(node: Node, args: list[Interval]) -> Interval:
    """The range of one node's output from the ranges of its inputs."""
    match node:
        case Constant():
            return Interval(node.value, node.value)
        case Linear() if args[0].one_hot:  # a row of the weight
            shape = (*args[0].shape[:-1], node.weight.shape[1])
            rows = node.weight.min(0), node.weight.max(0)
            return Interval(np.broadcast_to(rows[0], shape), np.broadcast_to(rows[1], shape))
        case Linear():
            up, down = np.maximum(node.weight, 0), np.minimum(node.weight, 0)
            x = args[0]
            return Interval(x.lo @ up + x.hi @ down, x.hi @ up + x.lo @ down)
        case Sub():
            return Interval(args[0].lo - args[1].hi, args[0].hi - args[1].lo)
        case Scale():
            a, b = args[0].lo * node.factor, args[0].hi * node.factor
            return Interval(np.minimum(a, b), np.maximum(a, b))
        case Mul():
            if node.inputs[0] == node.inputs[1]:  # a square: never negative
                big = np.maximum(abs(args[0].lo), abs(args[0].hi))
                small = np.minimum(abs(args[0].lo), abs(args[0].hi))
                crosses = (args[0].lo <= 0) & (args[0].hi >= 0)
                return Interval(np.where(crosses, 0, small) ** 2, big**2)
            return _corners(node, args)
        case MatMul():
            return _matmul(args[0], args[1])
        case ArgMax():
            shape = args[0].shape
            return Interval(np.zeros(shape, np.int64), np.ones(shape, np.int64), one_hot=True)
        case Table():
            return _table(node, args[0])
    # Everything else is monotone in every input.
    lo = np.asarray(evaluate(node, [a.lo for a in args]))
    hi = np.asarray(evaluate(node, [a.hi for a in args]))
    one_hot = isinstance(node, Slice | Reshape | Concat) and all(a.one_hot for a in args)
    return Interval(lo, hi, one_hot and lo.shape[-1] == args[0].shape[-1])


def analyze(program: Program) -> dict[str, Interval]:
    """Proved interval of every value by name, inputs included; see `Program.ranges`.

    Where the program says what was proved elsewhere, that is intersected with what is found here.
    """
    ranges = {port.name: Interval.of(port) for port in program.inputs}
    for node in program.nodes:
        found = bound(node, [ranges[i] for i in node.inputs])
        proved = program.proved.get(node.name)
        ranges[node.name] = found.within(proved) if proved is not None else found
    return ranges
