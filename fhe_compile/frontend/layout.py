"""ONNX layout operators (reshape, transpose, slice, gather, concat …) on symbols."""

from __future__ import annotations

from typing import Any

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.graphs import axis_of
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Clear,
    Movement,
    Symbol,
    moved,
    refuse_size,
)
from torusformer.fhe_compile.program.nodes import (
    Broadcast,
    Concat,
    Constant,
    Reshape,
    Slice,
    Transpose,
)

Attributes = dict[str, Any]
MAX_PIECES = 1024  # of one Gather: each is a node of the program


def reshape_to(layer: str, shape: tuple[int, ...]) -> Movement:
    """Movement that gives another shape."""
    return Movement(
        lambda a: a.reshape(shape),
        lambda b, v: v if b.ranges[v].shape == shape else b.emit(Reshape, layer, (v,), shape=shape),
    )


def transpose_by(layer: str, perm: tuple[int, ...]) -> Movement:
    """Movement that permutes axes, counted from the first."""
    if sorted(perm) != list(range(len(perm))):
        raise LoweringError(f"its axes {list(perm)} are no order of 0 to {len(perm) - 1}")
    return Movement(
        lambda a: a.transpose(perm), lambda b, v: b.emit(Transpose, layer, (v,), perm=perm)
    )


def broadcast_by(layer: str, shape: tuple[int, ...]) -> Movement:
    """Movement that repeats along axes; `shape` is the result."""
    return Movement(
        lambda a: np.broadcast_to(a, shape),
        lambda b, v: (
            v if b.ranges[v].shape == shape else b.emit(Broadcast, layer, (v,), shape=shape)
        ),
    )


def slice_by(layer: str, shape: tuple[int, ...], slices: dict[int, slice]) -> Movement:
    """Movement that keeps `slices[axis]` of a tensor of `shape`."""
    full = tuple(slices.get(axis, slice(None)).indices(size) for axis, size in enumerate(shape))
    starts, ends, strides = (tuple(part) for part in zip(*full, strict=True))
    if any(stride < 1 for stride in strides):
        raise LoweringError("a slice with a stride below 1")
    index = tuple(slice(*f) for f in full)

    def emit(builder: Builder, var: str) -> str:
        if all(f == (0, size, 1) for f, size in zip(full, shape, strict=True)):
            return var
        return builder.emit(Slice, layer, (var,), starts=starts, ends=ends, steps=strides)

    return Movement(lambda a: a[index], emit)


def in_turn(first: Movement, second: Movement) -> Movement:
    """One movement after the other."""
    return Movement(
        lambda a: second.array(first.array(a)), lambda b, v: second.emit(b, first.emit(b, v))
    )


def sliced(layer: str, shape: tuple[int, ...], slices: dict[int, slice]) -> Movement:
    """`slice_by`; along axes whose stride is negative, places are gathered."""
    back = {axis: cut for axis, cut in slices.items() if cut.step is not None and cut.step < 0}
    move = slice_by(layer, shape, {a: cut for a, cut in slices.items() if a not in back})
    for axis, cut in back.items():
        before = move.array(np.broadcast_to(np.int8(0), shape)).shape
        places = np.array(range(before[axis])[cut], np.int64)
        move = in_turn(move, gather_by(layer, before, axis, places))
    return move


def _repeated(
    layer: str, shape: tuple[int, ...], args: list[Symbol | None], attr: Attributes
) -> Movement:
    """Each place several times in a row: Resize to the nearest, by whole factors."""

    def word(name: str, default: str) -> str:
        found = attr.get(name, default)
        return found.decode() if isinstance(found, bytes) else str(found)

    factors = None
    if len(args) > 3 and isinstance(args[3], Clear) and len(args[3].value) == len(shape):
        factors = args[3].value / np.array(shape)
    else:
        given = [a.value for a in args[1:3] if isinstance(a, Clear) and a.value.size == len(shape)]
        factors = given[-1].astype(np.float64) if given else None
    asymmetric = word("coordinate_transformation_mode", "half_pixel") == "asymmetric"
    rounded = word("nearest_mode", "round_prefer_floor")
    floors = rounded == "floor" if asymmetric else rounded == "round_prefer_floor"
    if (
        factors is None
        or word("mode", "nearest") != "nearest"
        or not floors
        or (factors < 1).any()
        or (factors != np.rint(factors)).any()
    ):
        raise LoweringError("it is not resized to the nearest place by whole factors; use those")
    counts = factors.astype(np.int64).tolist()
    result = tuple(n * f for n, f in zip(shape, counts, strict=True))
    refuse_size(result)
    split = tuple(n for size in shape for n in (size, 1))
    spread = tuple(n for pair in zip(shape, counts, strict=True) for n in pair)
    move = in_turn(reshape_to(layer, split), broadcast_by(layer, spread))
    return in_turn(move, reshape_to(layer, result))


def _tiled(layer: str, shape: tuple[int, ...], counts: tuple[int, ...]) -> Movement:
    """The whole tensor several times along each axis."""
    if len(counts) != len(shape) or any(n < 1 for n in counts):
        raise LoweringError(f"it repeats {counts} times along {len(shape)} axes")
    result = tuple(n * size for n, size in zip(counts, shape, strict=True))
    refuse_size(result)
    apart = tuple(n for size in shape for n in (1, size))
    spread = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
    move = in_turn(reshape_to(layer, apart), broadcast_by(layer, spread))
    return in_turn(move, reshape_to(layer, result))


def _blocks(layer: str, op: str, shape: tuple[int, ...], attr: Attributes) -> Movement:
    """Channels to blocks of places and back."""
    n, c, h, w = shape
    b = int(attr["blocksize"])
    if op == "SpaceToDepth":
        apart, order = (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
        result = (n, c * b * b, h // b, w // b)
    else:
        columns_first = attr.get("mode", b"DCR") in (b"DCR", "DCR")
        inner = (b, b, c // (b * b)) if columns_first else (c // (b * b), b, b)
        apart, result = (n, *inner, h, w), (n, c // (b * b), h * b, w * b)
        order = (0, 3, 4, 1, 5, 2) if columns_first else (0, 1, 4, 2, 5, 3)
    move = in_turn(reshape_to(layer, apart), transpose_by(layer, order))
    return in_turn(move, reshape_to(layer, result))


def gather_by(layer: str, shape: tuple[int, ...], axis: int, indices: np.ndarray) -> Movement:
    """Movement that picks `indices` along `axis`: slices joined, or one slice where it is one."""
    result = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
    refuse_size(result)
    size = shape[axis]
    if indices.dtype.kind not in "iu" or not ((indices >= -size) & (indices < size)).all():
        raise LoweringError(f"indices beyond the {size} places of axis {axis}")
    pieces = 1 + np.count_nonzero(np.diff(np.ravel(indices) % size) != 1)
    if pieces > MAX_PIECES:
        raise LoweringError(
            f"a Gather of {pieces:,} separate pieces, the limit is {MAX_PIECES:,}; use a linear "
            "layer whose weights are 0 and 1"
        )
    flat = [int(i) % size for i in np.atleast_1d(indices).ravel()]

    def emit(builder: Builder, var: str) -> str:
        runs: list[list[int]] = []
        for i in flat:
            if runs and i == runs[-1][-1] + 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        parts = [
            slice_by(layer, shape, {axis: slice(run[0], run[-1] + 1)}).emit(builder, var)
            for run in runs
        ]
        joined = (
            parts[0] if len(parts) == 1 else builder.emit(Concat, layer, tuple(parts), axis=axis)
        )
        return reshape_to(layer, result).emit(builder, joined)

    return Movement(lambda a: np.take(a, flat, axis=axis).reshape(result), emit)


def _clear_ints(symbol: Symbol | None, what: str) -> tuple[int, ...]:
    if not isinstance(symbol, Clear):
        raise LoweringError(f"its {what} must be a constant")
    if symbol.value.dtype.kind not in "iu" or symbol.value.ndim > 1:
        raise LoweringError(f"its {what} are no list of whole numbers")
    return tuple(int(v) for v in np.atleast_1d(symbol.value).ravel())


def _target_shape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    if any(v < -1 for v in wanted):
        raise LoweringError(f"it gives the shape {wanted}")
    copied = tuple(shape[i] if v == 0 else v for i, v in enumerate(wanted))
    return np.empty(shape, np.int8).reshape(copied).shape


def _squeezed_shape(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> tuple[int, ...]:
    if not axes:
        return tuple(n for n in shape if n != 1)
    drop = {axis_of(a, len(shape)) for a in axes}
    return tuple(n for i, n in enumerate(shape) if i not in drop)


def _unsqueezed_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(shape) + len(axes)
    new = {axis_of(a, rank) for a in axes}
    if len(new) < len(axes):
        raise LoweringError(f"it adds an axis twice: {axes}")
    rest = iter(shape)
    return tuple(1 if i in new else next(rest) for i in range(rank))


def layout_moves(
    layer: str, op: str, args: list[Symbol | None], attr: Attributes, outputs: int
) -> list[Movement] | None:
    """The movements (one an output) of a layout operator on args[0]; None for any other."""
    if not args or args[0] is None:
        return None
    shape = args[0].shape

    def axes() -> tuple[int, ...] | None:
        if len(args) > 1 and args[1] is not None:
            return _clear_ints(args[1], "axes")
        return tuple(attr["axes"]) if "axes" in attr else None

    match op:
        case "Reshape":
            wanted = _clear_ints(args[1], "shape")
            if attr.get("allowzero", 0) and 0 in wanted:
                raise LoweringError(f"it gives the shape {wanted}, sizes are from 1 up")
            return [reshape_to(layer, _target_shape(shape, wanted))]
        case "Flatten":
            axis = attr.get("axis", 1)
            axis = axis if axis == len(shape) else axis_of(axis, len(shape))
            rows = int(np.prod(shape[:axis], dtype=np.int64))
            return [reshape_to(layer, _target_shape(shape, (rows, -1)))]
        case "Squeeze":
            return [reshape_to(layer, _squeezed_shape(shape, axes()))]
        case "Unsqueeze":
            return [reshape_to(layer, _unsqueezed_shape(shape, axes() or ()))]
        case "Transpose":
            return [transpose_by(layer, tuple(attr.get("perm", range(len(shape))[::-1])))]
        case "Expand":
            wanted = _clear_ints(args[1], "shape")
            if any(n < 1 for n in wanted):
                raise LoweringError(f"it spreads to {wanted}, sizes are from 1 up")
            refuse_size(np.broadcast_shapes(shape, wanted))
            return [broadcast_by(layer, np.broadcast_shapes(shape, wanted))]
        case "Gather":
            indices = args[1]
            assert isinstance(indices, Clear)
            axis = axis_of(attr.get("axis", 0), len(shape))
            return [gather_by(layer, shape, axis, np.asarray(indices.value))]
        case "Slice":
            starts, ends = (_clear_ints(a, "limits") for a in args[1:3])
            given = _clear_ints(args[3], "axes") if len(args) > 3 and args[3] else None
            on = given if given is not None else tuple(range(len(starts)))
            strides = _clear_ints(args[4], "steps") if len(args) > 4 and args[4] else (1,) * len(on)
            slices = {
                axis_of(a, len(shape)): slice(s, e, p)
                for a, s, e, p in zip(on, starts, ends, strides, strict=True)
            }
            return [sliced(layer, shape, slices)]
        case "Resize" | "Upsample":
            return [_repeated(layer, shape, args, attr)]
        case "Tile":
            counts = _clear_ints(args[1], "repeats")
            return [_tiled(layer, shape, counts)]
        case "DepthToSpace" | "SpaceToDepth":
            return [_blocks(layer, op, shape, attr)]
        case "Split":
            axis = axis_of(attr.get("axis", 0), len(shape))
            if len(args) > 1 and args[1] is not None:
                sizes = _clear_ints(args[1], "split sizes")
            elif "split" in attr:
                sizes = tuple(attr["split"])
            else:
                each = -(-shape[axis] // outputs)
                sizes = (*(each,) * (outputs - 1), shape[axis] - each * (outputs - 1))
            if min(sizes) < 1 or sum(sizes) != shape[axis] or len(sizes) != outputs:
                raise LoweringError(f"it splits {shape[axis]} into {sizes}")
            stops = np.cumsum(sizes)
            return [
                slice_by(layer, shape, {axis: slice(int(e - n), int(e))})
                for e, n in zip(stops, sizes, strict=True)
            ]
    return None


def concat(builder: Builder, layer: str, args: list[Symbol], axis: int) -> Symbol:
    """Concatenation of affine and constant symbols."""
    names, scales, offsets = [], [], []
    for arg in args:
        if not isinstance(arg, Affine | Clear):
            raise LoweringError(
                "Concat joins a tensor that has no quantizer; add a QuantIdentity before it"
            )
        if isinstance(arg, Affine):
            name, scale, offset = arg.var, arg.scale, arg.offset
        else:
            # An unquantized constant travels as the integer 0 and an offset for the next table.
            ints = arg.ints if arg.ints is not None else np.zeros(arg.shape, np.int64)
            name = builder.emit(Constant, layer, (), value=np.asarray(ints, np.int64))
            scale = arg.scale if arg.scale is not None else np.ones(arg.shape)
            offset = arg.offset if arg.offset is not None else arg.value.astype(np.float64)
        names.append(name)
        scales.append(scale)
        offsets.append(offset)
    axis = axis_of(axis, scales[0].ndim)
    return Affine(
        builder.emit(Concat, layer, tuple(names), axis=axis),
        np.concatenate(scales, axis),
        np.concatenate(offsets, axis),
    )


def apply_move(builder: Builder, layer: str, symbol: Symbol, move: Movement) -> Symbol:
    """`moved`, with numpy's complaint about a shape turned into a lowering error."""
    try:
        return moved(builder, layer, symbol, move)
    except ValueError as error:
        raise LoweringError(str(error)) from None
