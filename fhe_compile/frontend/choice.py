"""An index in, what is looked up for it out, without a bootstrap.

A token is an index, and the client sends it as a one-hot row. Whatever a graph computes from it
alone (embedding, positions, a norm, projections) is one of a few constants: it is computed in the
clear for every index, in floating point as in training, and where a quantizer makes integers of it
these become one linear map of the one-hot row.

Worked example: rows [[0.9], [-0.4], [0.1]], doubled and rounded, are a weight [[2], [-1], [0]].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Builder,
    Chosen,
    Clear,
    Index,
    Symbol,
    affine,
)
from torusformer.fhe_compile.program.nodes import Linear, Port, Reshape


def index_input(name: str, shape: tuple[int, ...]) -> Index:
    """A graph input of whole numbers."""
    if np.prod(shape) != 1:
        raise LoweringError(
            f"graph input '{name}' holds {np.prod(shape)} indices, a program looks up one a run; "
            "export the step of a decoder for one token"
        )
    return Index(name, shape)


def look_up(builder: Builder, table: Symbol | None, index: Index, axis: int) -> Chosen:
    """Gather(table, index) along the first axis."""
    if not isinstance(table, Clear) or axis != 0:
        raise LoweringError("an index looks up rows of a constant matrix, nothing else")
    count = table.shape[0]
    port = Port(index.name, (1, count), 0, 1, one_hot=True)
    known = next((p for p in builder.inputs if p.name == port.name), None)
    if known is None:
        builder.add_input(port)
    elif known.shape != port.shape:
        raise LoweringError(
            f"graph input '{index.name}' indexes tables of {known.shape[1]} and of {count} rows; "
            "give both the same number"
        )
    rows = (np.take(table.value, np.full(index.shape, i), axis=0) for i in range(count))
    return Chosen(index.name, tuple(Clear(row) for row in rows))


def is_choice(args: Sequence[Symbol | None]) -> bool:
    """Whether everything is known but for one index."""
    names = {arg.name for arg in args if isinstance(arg, Chosen)}
    return len(names) == 1 and all(a is None or isinstance(a, Chosen | Clear) for a in args)


def for_each(
    compute: Callable[[list[Symbol | None]], list[Symbol]], args: Sequence[Symbol | None]
) -> list[Symbol]:
    """`compute` for every index; its results, each again a constant for each index."""
    (name, count), *_ = ((a.name, len(a.entries)) for a in args if isinstance(a, Chosen))
    found = [
        compute([a.entries[i] if isinstance(a, Chosen) else a for a in args]) for i in range(count)
    ]
    results: list[Symbol] = []
    for entries in zip(*found, strict=True):
        constants = tuple(e for e in entries if isinstance(e, Clear))
        assert len(constants) == count, "constants give constants"
        results.append(Chosen(name, constants))
    return results


def as_integers(builder: Builder, layer: str, chosen: Chosen) -> Affine:
    """The quantized constants as a linear map of the one-hot row."""
    first = chosen.entries[0]
    if first.ints is None or first.scale is None or first.offset is None:
        raise LoweringError(
            f"what depends on '{chosen.name}' alone meets other encrypted values in floating "
            "point; add a QuantIdentity before that"
        )
    rows = [entry.ints.ravel() for entry in chosen.entries if entry.ints is not None]
    var = builder.emit(Linear, layer, (chosen.name,), weight=np.stack(rows))
    if builder.ranges[var].shape != chosen.shape:
        var = builder.emit(Reshape, layer, (var,), shape=chosen.shape)
    return affine(var, chosen.shape, first.scale, first.offset)
