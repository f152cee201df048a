"""What a float tensor of a QONNX graph is known to be while the graph is lowered.

* `Clear`: a constant, with its integers if it came out of a quantizer.
* `Unquantized`: a graph input of real numbers before its quantizer; the client holds it.
* `Affine`: real = scale * integer + offset, the integer being a value of the program.
* `Pending`: an element-wise expression over affine values that waits for its quantizer to
  become one table.
* `Pooled`: the largest of each window of an expression that waits for its quantizer.
* `TokenWise`: each element depends on one token alone: a constant for each token it can be.

Scales and offsets are float64 arrays of the tensor's full shape: per-tensor, per-channel and
per-element then need no cases of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torusformer import LoweringError
from torusformer.fhe_compile.program.nodes import Broadcast, IntArray, Node, Port
from torusformer.fhe_compile.program.ranges import LIMIT_BITS, MAX_GIVEN, Interval, refuse_many

FloatArray = NDArray[np.float64]
LARGEST = 1e30  # magnitude of scales and offsets: float32, in which models compute, ends at 3e38
MAX_OPERATIONS = 256  # of one element-wise function


class Builder:
    """The program under construction, with the proved range of every value so far."""

    def __init__(self) -> None:
        self.inputs: list[Port] = []
        self.nodes: list[Node] = []
        self.tables: dict[str, list[Port]] = {}  # by token input, those that it looks up
        self.ranges: dict[str, Interval] = {}
        self._emitted = 0
        self._room = MAX_GIVEN  # numbers that values may still have

    def emit(self, kind: type[Node], layer: str, inputs: tuple[str, ...], **fields: object) -> str:
        """Append a node and return its value's name."""
        node = kind(f"v{self._emitted}", layer, inputs, **fields)
        self._emitted += 1
        found = node.reach([self.ranges[i] for i in inputs], self._room)
        self._room -= found.lo.size
        self.ranges[node.name] = found
        self.nodes.append(node)
        return node.name

    def add_input(self, port: Port) -> str:
        """Declare an input of the program."""
        refuse_many(f"input {port.name!r}", math.prod(port.shape), self._room)
        self._room -= math.prod(port.shape)
        self.inputs.append(port)
        self.ranges[port.name] = Interval.of(port)
        return port.name


def refuse_size(shape: tuple[int, ...], times: int = 1) -> None:
    """A LoweringError for a tensor, or `times` of them, of no numbers or more than a graph may."""
    if 0 in shape:
        raise LoweringError(f"its result has no numbers: its shape is {shape}")
    if math.prod(shape) * times > MAX_GIVEN:
        raise LoweringError(
            f"its result has {math.prod(shape) * times:,} numbers, the limit is {MAX_GIVEN:,}; "
            "lower the number of tokens or features"
        )


def refuse_bounds(op: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """A LoweringError for a Clip whose bounds are not one number each, as ONNX has it."""
    if op == "Clip" and any(math.prod(shape) != 1 or len(shape) > 1 for shape in shapes[1:]):
        raise LoweringError("a Clip by bounds that are not one number each; use Min and Max")


def whole(array: np.ndarray) -> IntArray:
    """Integers of rounded floats; a LoweringError where int64 does not hold them."""
    if not (np.abs(array) < 2.0**LIMIT_BITS).all():
        raise LoweringError(
            f"an offset over its scale passes 2^{LIMIT_BITS}; calibrate the quantizer before "
            "exporting"
        )
    return np.asarray(array).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Movement:
    """A change of layout that commutes with element-wise work: reshape, slice, broadcast …"""

    array: Callable[[np.ndarray], np.ndarray]
    emit: Callable[[Builder, str], str]


@dataclass(frozen=True, eq=False)
class Clear:
    """A constant; `value` = `ints` * `scale` + `offset` where it was quantized."""

    value: np.ndarray
    ints: IntArray | None = None
    scale: FloatArray | None = None
    offset: FloatArray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the constant."""
        return self.value.shape


@dataclass(frozen=True, eq=False)
class Unquantized:
    """The graph input times `scale` plus `offset`, moved by `moves`, not yet quantized.

    Both are numbers, or arrays of the input's shape. What results is clipped to `low` and `high`.
    """

    name: str
    input_shape: tuple[int, ...]
    scale: float | FloatArray = 1.0
    offset: float | FloatArray = 0.0
    moves: tuple[Movement, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape after the moves."""
        return self.moved(np.broadcast_to(np.int8(0), self.input_shape)).shape

    def moved(self, array: np.ndarray) -> np.ndarray:
        """An array of the input's shape after the moves."""
        for move in self.moves:
            array = move.array(array)
        return array


@dataclass(frozen=True, eq=False)
class Affine:
    """real = scale * integer + offset, the integer being the program's value `var`."""

    var: str
    scale: FloatArray
    offset: FloatArray

    def __post_init__(self) -> None:
        scale = np.abs(self.scale)
        refuse_size(scale.shape)
        if not ((scale < LARGEST).all() and (np.abs(self.offset) < LARGEST).all()):
            raise LoweringError(
                f"its scale or offset is no number below {LARGEST:.0e}; mend the constants"
            )
        if (scale < 1 / LARGEST).any():
            raise LoweringError(
                f"its scale is below {1 / LARGEST:.0e}; calibrate the quantizer before exporting"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.scale.shape


@dataclass(frozen=True, eq=False)
class Pending:
    """One element-wise ONNX operation on symbols; its table is made when a quantizer reads it.

    `entries` is the clear vector that a Gather looks its operand up in.
    """

    proto: onnx.NodeProto
    args: tuple[Symbol | None, ...]
    shape: tuple[int, ...]
    entries: np.ndarray | None = None

    def __post_init__(self) -> None:
        refuse_size(self.shape)
        refuse_bounds(self.proto.op_type, [arg.shape for arg in self.args if arg is not None])
        if self.operations > MAX_OPERATIONS:
            raise LoweringError(
                f"an element-wise function of more than {MAX_OPERATIONS} operations; "
                "add a QuantIdentity between them"
            )

    @cached_property
    def operations(self) -> int:
        """Of the whole expression, those that are shared as often as they are read."""
        return 1 + sum(arg.operations for arg in self.args if isinstance(arg, Pending))

    def leaves(self) -> list[Affine | Clear]:
        """Every affine and constant operand below this expression, repeats included."""
        found: list[Affine | Clear] = []
        for arg in self.args:
            if isinstance(arg, Pending):
                found.extend(arg.leaves())
            elif isinstance(arg, Affine | Clear):
                found.append(arg)
        return found

    def roots(self) -> list[str]:
        """The program values the expression reads, each once."""
        return list(dict.fromkeys(a.var for a in self.leaves() if isinstance(a, Affine)))


@dataclass(frozen=True, eq=False)
class TokenInput:
    """A graph input of `count` whole numbers below `vocabulary`, by which rows are looked up.

    The client sends one-hot rows, or (`lookup`) rows of a public table.
    """

    name: str
    count: int
    vocabulary: int
    lookup: bool = False


@dataclass(frozen=True, eq=False)
class TokenWise:
    """A tensor of which each element depends on the token at one position, and on no other.

    `positions`, of the tensor's shape, says at which; -1 where an element depends on none.
    `entries` holds value and integers for every token of the vocabulary, (V, *shape), as if it
    stood everywhere. An axis along which positions differ, but constants do not, has length 1
    there. Scale and offset have the tensor's shape. `otherwise` gives the same tensor in terms of
    what was quantized before, where there are no integers.
    """

    source: TokenInput
    positions: IntArray
    entries: Clear
    otherwise: Callable[[], Symbol] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.positions.shape

    def of_token(self, token: int) -> np.ndarray:
        """The tensor if every token is this one."""
        return np.broadcast_to(self.entries.value[token], self.shape)


@dataclass(frozen=True, eq=False)
class Pooled:
    """`pool` of a tensor, the largest of each window: it commutes with a function that grows.

    So it waits until a quantizer made `inner` narrow. `channels`: its first two axes are
    those of `inner`.
    """

    inner: Affine | Pending
    pool: Callable[[Builder, str, Symbol], Symbol]
    shape: tuple[int, ...]
    channels: bool = True

    def takes(self, constant: np.ndarray) -> bool:
        """Whether a constant is the same throughout each window."""
        if constant.size == 1:
            return True
        rank = len(self.inner.shape)
        return self.channels and constant.ndim == rank and constant.shape[2:] == (1,) * (rank - 2)


Symbol = Clear | Unquantized | Affine | Pending | TokenWise | Pooled


def affine(var: str, shape: tuple[int, ...], scale: object, offset: object = 0.0) -> Affine:
    """An affine value with scale and offset spread over its shape."""
    return Affine(
        var,
        np.broadcast_to(np.asarray(scale, np.float64), shape),
        np.broadcast_to(np.asarray(offset, np.float64), shape),
    )


def broadcast_var(builder: Builder, layer: str, var: str, shape: tuple[int, ...]) -> str:
    """`var` repeated to `shape`, without a node where it has that shape already."""
    if builder.ranges[var].shape == shape:
        return var
    return builder.emit(Broadcast, layer, (var,), shape=shape)


def moved(builder: Builder, layer: str, symbol: Symbol, move: Movement) -> Symbol:
    """The symbol after a change of layout."""
    done: dict[str, str] = {}

    def visit(part: Symbol | None, shape: tuple[int, ...]) -> Symbol | None:
        if isinstance(part, Clear):
            return Clear(
                *(
                    None if a is None else move.array(np.broadcast_to(a, shape))
                    for a in (part.value, part.ints, part.scale, part.offset)
                )  # type: ignore[arg-type]
            )
        if isinstance(part, Affine):
            if part.var not in done:
                done[part.var] = move.emit(builder, broadcast_var(builder, layer, part.var, shape))
            return Affine(
                done[part.var],
                move.array(np.broadcast_to(part.scale, shape)),
                move.array(np.broadcast_to(part.offset, shape)),
            )
        if isinstance(part, Pending):
            args = tuple(visit(a, shape) for a in part.args)
            new_shape = move.array(np.broadcast_to(np.int8(0), shape)).shape
            return Pending(part.proto, args, new_shape, part.entries)
        if isinstance(part, TokenWise):
            return _moved_tokens(builder, layer, part, move)
        if isinstance(part, Pooled):
            before = part.pool

            def after(b: Builder, where: str, x: Symbol) -> Symbol:
                return moved(b, where, before(b, where, x), move)

            new_shape = move.array(np.broadcast_to(np.int8(0), part.shape)).shape
            return Pooled(part.inner, after, new_shape, channels=False)
        if isinstance(part, Unquantized):
            return replace(part, moves=(*part.moves, move))
        return None

    result = visit(symbol, symbol.shape)
    if result is None:
        raise LoweringError(f"{layer}: nothing to move")
    return result


def _moved_tokens(builder: Builder, layer: str, part: TokenWise, move: Movement) -> TokenWise:
    kept = part.entries.value.shape[1:]
    place = np.arange(math.prod(kept)).reshape(kept)  # of each element in a token's entry
    place = move.array(np.broadcast_to(place, part.shape))
    positions = move.array(part.positions)
    (place,) = without_copies(place[None], positions)

    def entries(array: np.ndarray | None) -> Any:
        return None if array is None else array.reshape(len(array), -1)[:, place]

    def spread(array: np.ndarray | None) -> Any:
        return None if array is None else move.array(array)

    value, ints, scale, offset = (
        getattr(part.entries, name) for name in ("value", "ints", "scale", "offset")
    )
    moved_entries = Clear(entries(value), entries(ints), spread(scale), spread(offset))
    before = part.otherwise
    after = None if before is None else lambda: moved(builder, layer, before(), move)
    return TokenWise(part.source, positions, moved_entries, after)


def without_copies(array: np.ndarray, positions: IntArray) -> np.ndarray:
    """(V, *shape) with length 1 along axes where positions differ, but nothing else."""
    for axis in range(positions.ndim):
        first = np.take(array, [0], axis=axis + 1)
        if varies(positions, axis) and np.array_equal(array, np.broadcast_to(first, array.shape)):
            array = first
    return array


def varies(array: np.ndarray, axis: int) -> bool:
    """Whether the array is not constant along an axis."""
    return array.size > 0 and bool((array != np.take(array, [0], axis=axis)).any())


def uniform(array: FloatArray, axes: tuple[int, ...]) -> bool:
    """Whether the array is constant along each of `axes` (float32 rounding aside)."""
    if array.size == 0:
        return True
    return all(
        np.allclose(array, np.take(array, [0], axis=axis), rtol=1e-6, atol=0.0) for axis in axes
    )


def squeezed(array: FloatArray) -> FloatArray:
    """The smallest array that broadcasts to `array`: constant axes become 1, or a scalar."""
    for axis in range(array.ndim):
        if uniform(array, (axis,)):
            array = np.take(array, [0], axis=axis)
    return array.reshape(()) if array.size == 1 else array


def compact(array: IntArray) -> IntArray:
    """`squeezed` for integers, of which none is like another."""
    for axis in range(array.ndim):
        if not varies(array, axis):
            array = np.take(array, [0], axis=axis)
    return array.reshape(()) if array.size == 1 else array
