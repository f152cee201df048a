"""Operations of a circuit that nobody has the weights of: shapes, bits and noise in, a price out.

They stand where the operations of an encoded program would stand, so parameters, keys and memory
are estimated by the very code that estimates those of a program (`fhe_compile.tfhe.estimate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.program.port import Port
from torusformer.fhe_compile.tfhe.encoding import EncodedPort, Encoding, bits_for, shared_widths
from torusformer.fhe_compile.tfhe.estimate import Estimate
from torusformer.fhe_compile.tfhe.plan_rows import PlanRow
from torusformer.fhe_compile.tfhe.tensor_ops import (
    AddClear,
    Backend,
    Input,
    Lookup,
    TensorOp,
    Truncate,
    Wrap,
)

Shape = tuple[int, ...]
_NOTHING = np.zeros((1, 1), np.int64)  # in place of offsets and tables


@dataclass(frozen=True)
class Value:
    """What one operation gives: integers from `lo` to `hi` in a `shape`, noise aside."""

    operation: int
    shape: Shape
    lo: int
    hi: int

    @property
    def span(self) -> int:
        """Highest less lowest."""
        return self.hi - self.lo


@dataclass(frozen=True, eq=False)
class Sums(TensorOp):
    """Sums of its arguments: `squares` is the sum of squared weights of each, `joined` takes the
    noisiest of them instead of all.
    """

    squares: tuple[float, ...]
    joined: bool = False

    def trace(self, args: Sequence[Any], bits: Sequence[int], backend: Backend) -> Any:
        """Nothing: there are no weights."""
        raise TypeError(f"{self.tag} has no weights")

    def squared_weights(self, given: Sequence[float], shapes: Sequence[Shape]) -> float:
        """Variances times squares."""
        parts = [g * s for g, s in zip(given, self.squares, strict=True)]
        return max(parts, default=0.0) if self.joined else sum(parts)

    @property
    def content(self) -> tuple[object, ...]:
        """By noise."""
        return ("sums", self.squares, self.joined)


@dataclass
class Skeleton:
    """Operations as they are added. What is done `times` over, tile after tile, stands once."""

    operations: list[TensorOp] = field(default_factory=list)
    times: dict[int, int] = field(default_factory=dict)
    inputs: list[EncodedPort] = field(default_factory=list)
    outputs: list[EncodedPort] = field(default_factory=list)

    def enter(self, name: str, shape: Shape, lo: int, hi: int) -> Value:
        """What the client encrypts."""
        port = Port(name, (1,), lo, hi)
        made = self._add(Input((), shape, "input", name, bits=bits_for(hi - lo)), lo, hi)
        self.inputs.append(EncodedPort(port, made.operation, np.array(lo), bits_for(hi - lo)))
        return made

    def leave(self, name: str, value: Value, bits: int) -> None:
        """What the client decrypts."""
        read = self._clear(value, "output", bits)
        self.outputs.append(EncodedPort(Port(name, (1,), 0, 1), read, np.array(0), bits))

    def sums(
        self,
        layer: str,
        shape: Shape,
        parts: Sequence[tuple[Value, float]],
        lo: int,
        hi: int,
        *,
        joined: bool = False,
        times: int = 1,
    ) -> Value:
        """Values, each with the sum of squared weights that it comes in with."""
        args = tuple(value.operation for value, _ in parts)
        squares = tuple(float(s) for _, s in parts)
        return self._add(Sums(args, shape, layer, layer, squares, joined), lo, hi, times)

    def table(
        self,
        layer: str,
        x: Value,
        lo: int,
        hi: int,
        *,
        ring: int | None = None,
        lsbs: int = 0,
        times: int = 1,
        aligned: bool = False,
    ) -> Value:
        """A table of x, from `lo` to `hi`; of what a rounding left, which dropped `lsbs`.

        A `ring` is the bits of the table that reads a sum that wraps. What is `aligned` lies where
        the table reads it already.
        """
        read = x.operation
        if ring is not None:
            wrap = Wrap((read,), x.shape, layer, layer, _NOTHING, bits=ring)
            read = self._add(wrap, x.lo, x.hi, times).operation
        elif not lsbs and aligned:
            self._widen(read, bits_for(x.span))
        elif not lsbs:
            read = self._clear(x, layer, bits_for(x.span), times)
        bits = bits_for(max(abs(lo), abs(hi)) if ring is not None else hi - lo)
        found = Lookup((read,), x.shape, layer, layer, _NOTHING, None, lsbs, bits=bits)
        return self._add(found, lo, hi, times)

    def rounded(self, layer: str, x: Value, bits: int, *, times: int = 1) -> tuple[Value, int]:
        """x rounded until it spans `bits` bits, and how many it dropped: none if it does already.

        As `quantize.layers.AccumulatorRounding`, and as the encoder lays it out.
        """
        k = dropped_bits(x.lo, x.hi, bits)
        if not k:
            return x, 0
        half = 2 ** (k - 1) - 1
        first, last = x.lo + half, x.hi + half
        wide = bits_for(last - (first >> k << k))
        read = self._clear(x, layer, wide, times)
        made = Truncate((read,), x.shape, layer, layer, k, bits=wide)
        return self._add(made, first >> k, last >> k, times), k

    def cut(self, layer: str, x: Value, bits: int, lsbs: int, span: int, times: int) -> Value:
        """x of `bits` bits without its lowest, which spans `span` then."""
        made = Truncate((self._clear(x, layer, bits, times),), x.shape, layer, layer, lsbs,
                        bits=bits)  # fmt: skip
        return self._add(made, 0, span, times)

    def read(
        self,
        layer: str,
        x: Value,
        bits: int,
        lo: int,
        hi: int,
        rounding: str,
    ) -> Value:
        """A table of x, which is rounded to `bits` bits before, in the layer `rounding`."""
        x, lsbs = self.rounded(rounding, x, bits)
        return self.table(layer, x, lo, hi, lsbs=lsbs)

    def estimate(self, prices: PriceList) -> SkeletonEstimate:
        """Of all operations so far."""
        operations = tuple(self.operations)
        encoding = Encoding(
            operations, tuple(self.inputs), tuple(self.outputs), shared_widths(operations)
        )
        return SkeletonEstimate(encoding, prices, self.times)

    def _clear(self, x: Value, layer: str, bits: int, times: int = 1) -> int:
        made = AddClear((x.operation,), x.shape, layer, layer, _NOTHING, bits=bits)
        return self._add(made, x.lo, x.hi, times).operation

    def _add(self, operation: TensorOp, lo: int, hi: int, times: int = 1) -> Value:
        index = len(self.operations)
        self.operations.append(operation)
        if times > 1:
            self.times[index] = times
        return Value(index, operation.shape, lo, hi)

    def _widen(self, index: int, bits: int) -> None:
        if bits > self.operations[index].bits:
            self.operations[index] = replace(self.operations[index], bits=bits)


class SkeletonEstimate(Estimate):
    """An estimate in which some operations run several times, one after the other."""

    def __init__(self, encoding: Encoding, prices: PriceList, times: Mapping[int, int]) -> None:
        """`times` by the index of the operation."""
        super().__init__(encoding, prices)
        self.times = {id(encoding.operations[i]): n for i, n in times.items()}

    def milliseconds(self, op: TensorOp) -> float:
        """Of all its runs."""
        return super().milliseconds(op) * self.times.get(id(op), 1)

    def rows(self) -> tuple[PlanRow, ...]:
        """As in a plan of a program."""
        found: list[PlanRow] = []
        for op in self.encoding.operations:
            count, ms = op.size * self.times.get(id(op), 1), self.milliseconds(op)
            if isinstance(op, Lookup):
                wraps = isinstance(self.encoding.operations[op.args[0]], Wrap)
                bits = self.bits_read(op)
                found.append(PlanRow(op.tag, op.layer, "table", bits, 0, count, ms, wraps))
            elif isinstance(op, Truncate):
                pbs = count * op.lsbs
                found.append(PlanRow(op.tag, op.layer, "round", op.bits, op.lsbs, pbs, ms))
        return tuple(found)


def dropped_bits(lo: int, hi: int, bits: int) -> int:
    """How many low bits go until what is left spans at most `bits` bits.

    >>> dropped_bits(-40, 40, 5)
    2
    """
    k = max(0, (hi - lo).bit_length() - bits)
    while k:
        half = 2 ** (k - 1) - 1
        if ((hi + half) >> k) - ((lo + half) >> k) < 2**bits:
            break
        k += 1
    return k


def size_of(shape: Shape) -> int:
    """Ciphertexts."""
    return math.prod(shape)
