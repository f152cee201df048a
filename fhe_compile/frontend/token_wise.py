"""Token ids in, what a graph computes from each of them alone out: constants, without a bootstrap.

Embedding, positions, a norm of a token, the projections of a first block: whatever depends on one
token and its position is one of a few constants. It is computed in the clear for every token of the
vocabulary, in floating point as in training, until it meets other values: then its integers become
a linear map of what the client sends (`token_ports`).

Worked example: rows [[0.9], [-0.4], [0.1]], doubled and rounded, are integers [[2], [-1], [0]].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import onnx

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.elementwise import ELEMENTWISE, apply
from torusformer.fhe_compile.frontend.graphs import static_shape, table_lengths
from torusformer.fhe_compile.frontend.symbols import (
    Clear,
    Symbol,
    TokenInput,
    TokenWise,
    refuse_size,
    uniform,
    without_copies,
)
from torusformer.fhe_compile.program.nodes import IntArray

Tokens = Literal["one-hot", "lookup"]
TOKENS_KEY = "tokens"  # in the metadata of a QONNX model


def tokens_of(chosen: str | None, model: onnx.ModelProto) -> Tokens:
    """How tokens enter: as `chosen`, else as the model's metadata say, else "one-hot"."""
    said = {p.key: p.value for p in model.metadata_props}.get(TOKENS_KEY, "one-hot")
    tokens = chosen or said
    if tokens not in get_args(Tokens):
        raise LoweringError(f"tokens are {tokens!r}; they enter as 'one-hot' or as 'lookup'")
    return tokens  # type: ignore[return-value]


def token_input(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, tokens: Tokens
) -> TokenWise | None:
    """The token ids of a graph input of whole numbers by which rows are looked up; else None.

    Raises:
        LoweringError: several texts at once, or tables of different numbers of rows.
    """
    name, shape = value.name, static_shape(value)
    whole = value.type.tensor_type.elem_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    counts = table_lengths(graph, name) if whole else set()
    if not counts:
        return None
    if len(counts) > 1:
        raise LoweringError(
            f"graph input '{name}' looks up tables of {min(counts)} and of {max(counts)} rows; "
            "give all the same number"
        )
    if max(shape) != np.prod(shape):
        raise LoweringError(
            f"graph input '{name}' holds several rows of tokens {shape}; export with batch 1"
        )
    (vocabulary,) = counts
    positions = np.arange(max(shape)).reshape(shape)
    ids = np.arange(vocabulary).reshape(vocabulary, *(1 for _ in shape))
    source = TokenInput(name, positions.size, vocabulary, lookup=tokens == "lookup")
    return TokenWise(source, positions, Clear(ids))


def compute(
    proto: onnx.NodeProto, args: Sequence[Symbol | None], attr: dict[str, Any]
) -> TokenWise | None:
    """An ONNX operator on one input's tokens and constants; None where it mixes positions."""
    sources = {arg.source for arg in args if isinstance(arg, TokenWise)}
    if len(sources) != 1 or not all(a is None or isinstance(a, Clear | TokenWise) for a in args):
        return None
    (source,) = sources
    if proto.op_type == "Pad":
        return None  # a constant beside tokens: as wide for each of them as the whole tensor
    if proto.op_type == "Gather":
        return _rows(args[0], args[1], int(attr.get("axis", 0)))
    if proto.op_type in ELEMENTWISE:
        positions = _shared_positions(args)
        if positions is None:
            return None
        aligned = [_aligned(arg, positions.ndim) for arg in args]
        refuse_size(_own_shape(args, aligned), source.vocabulary)
        value = apply(proto, aligned)
        value = np.broadcast_to(value, (source.vocabulary, *value.shape[1:]))
    else:
        positions = _traced_positions(proto, args)
        if positions is None:
            return None
        value = np.stack([apply(proto, _of_token(args, i)) for i in range(source.vocabulary)])
    return TokenWise(source, positions, Clear(without_copies(value, positions)))


def _rows(table: Symbol | None, ids: Symbol | None, axis: int) -> TokenWise | None:
    """Gather(table, ids) along the first axis."""
    if not isinstance(table, Clear) or not isinstance(ids, TokenWise) or axis != 0:
        raise LoweringError("tokens look up rows of a constant table, nothing else")
    row, place = table.shape[1:], ids.entries.value.astype(np.int64)
    refuse_size((*place.shape[1:], *row), table.shape[0])
    positions = np.broadcast_to(
        ids.positions.reshape(*ids.shape, *(1 for _ in row)), (*ids.shape, *row)
    )
    entries = Clear(table.value[place])
    scale, offset = table.scale, table.offset
    if table.ints is None or scale is None or offset is None:
        return TokenWise(ids.source, positions, entries)
    if uniform(scale, (0,)) and uniform(offset, (0,)):
        scale, offset = (np.broadcast_to(part[0], positions.shape) for part in (scale, offset))
        entries = Clear(entries.value, table.ints[place], scale, offset)
    return TokenWise(ids.source, positions, entries)


def _shared_positions(args: Sequence[Symbol | None]) -> IntArray | None:
    """Of an element-wise result: None where it would depend on tokens of two positions."""
    given = [a.positions for a in args if isinstance(a, TokenWise)]
    shape = np.broadcast_shapes(*(a.shape for a in args if a is not None))
    positions = np.full(shape, -1)
    for other in given:
        other = np.broadcast_to(other, shape)
        if ((positions >= 0) & (other >= 0) & (positions != other)).any():
            return None
        positions = np.maximum(positions, other)
    return positions


def _aligned(arg: Symbol | None, rank: int) -> np.ndarray | None:
    """The operand with the vocabulary as an axis before all axes of the result."""
    if isinstance(arg, TokenWise):
        value = arg.entries.value
        fill = (1,) * (rank + 1 - value.ndim)
        return value.reshape(value.shape[0], *fill, *value.shape[1:])
    return arg.value if isinstance(arg, Clear) else None


def _own_shape(
    args: Sequence[Symbol | None], aligned: Sequence[np.ndarray | None]
) -> tuple[int, ...]:
    """Of an element-wise result for one token, without copies along positions."""
    pairs = zip(args, aligned, strict=True)
    shapes = [a.shape[isinstance(arg, TokenWise) :] for arg, a in pairs if a is not None]
    return np.broadcast_shapes(*shapes)


def _of_token(args: Sequence[Symbol | None], token: int) -> list[np.ndarray | None]:
    return [
        a.of_token(token) if isinstance(a, TokenWise) else a.value if isinstance(a, Clear) else None
        for a in args
    ]


def _traced_positions(proto: onnx.NodeProto, args: Sequence[Symbol | None]) -> IntArray | None:
    """Of any operator's result: which elements become NaN if those of one position are."""
    given = np.concatenate([a.positions.ravel() for a in args if isinstance(a, TokenWise)])
    result = apply(proto, _of_token(args, 0))
    if len(np.unique(given)) == 1:
        return np.full(result.shape, given[0])
    if result.dtype.kind != "f" or any(
        isinstance(a, TokenWise) and a.entries.value.dtype.kind != "f" for a in args
    ):
        return None
    positions = np.full(result.shape, -1)
    for position in np.unique(given[given >= 0]):
        marked = [
            np.where(a.positions == position, np.nan, 1).astype(a.entries.value.dtype)
            if isinstance(a, TokenWise)
            else a.value
            if isinstance(a, Clear)
            else None
            for a in args
        ]
        touched = np.isnan(apply(proto, marked))
        if (positions[touched] >= 0).any():
            return None
        positions[touched] = position
    return positions
