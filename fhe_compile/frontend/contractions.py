"""ONNX `MatMul`, `Gemm` and `Einsum` on symbols of any rank: moves around a product of matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.arithmetic import binary, matmul, reduce
from torusformer.fhe_compile.frontend.grids import on_grid
from torusformer.fhe_compile.frontend.layout import broadcast_by, reshape_to, transpose_by
from torusformer.fhe_compile.frontend.symbols import (
    Builder,
    Clear,
    Movement,
    Symbol,
    moved,
    refuse_size,
)

_EINSUM = re.compile(r"([A-Za-z]*(?:,[A-Za-z]*)*)(?:->([A-Za-z]*))?")


def product(builder: Builder, layer: str, x: Symbol, y: Symbol) -> Symbol:
    """x @ y as numpy has it; at least one of the two is encrypted."""

    def put(symbol: Symbol, move: Movement) -> Symbol:
        return moved(builder, layer, symbol, move)

    if not x.shape or not y.shape:
        raise LoweringError("a product with a number of no axis; use Mul")
    if len(x.shape) == 1:
        found = product(builder, layer, put(x, reshape_to(layer, (1, *x.shape))), y)
        return put(found, reshape_to(layer, (*found.shape[:-2], *found.shape[-1:])))
    if len(y.shape) == 1:
        found = product(builder, layer, x, put(y, reshape_to(layer, (*y.shape, 1))))
        return put(found, reshape_to(layer, found.shape[:-1]))
    if isinstance(x, Clear) and len(x.shape) > 2:
        flip = (transpose_by(layer, _last_two(len(s.shape))) for s in (y, x))
        left, right = (put(s, move) for s, move in zip((y, x), flip, strict=True))
        turned = product(builder, layer, left, right)
        return put(turned, transpose_by(layer, _last_two(len(turned.shape))))
    if not isinstance(y, Clear) or len(y.shape) == 2:
        return matmul(builder, layer, x, y)
    if math.prod(y.shape[:-2]) == 1:
        found = matmul(builder, layer, x, put(y, reshape_to(layer, y.shape[-2:])))
        missing = (1,) * (len(y.shape) - len(found.shape))
        return put(found, reshape_to(layer, (*missing, *found.shape))) if missing else found
    return _batch_of_constants(builder, layer, x, y)


def _last_two(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


def _batch_of_constants(builder: Builder, layer: str, x: Symbol, y: Clear) -> Symbol:
    """A matrix for each place in front: one matrix of all of them as blocks."""
    grid = on_grid(y, None)
    if grid is None or grid.ints is None or grid.scale is None or grid.offset is None:
        raise LoweringError(
            "its weight is a float constant; use a Brevitas layer with weight_bit_width"
        )
    lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    (rows, inner), columns, count = x.shape[-2:], y.shape[-1], math.prod(lead)
    refuse_size((count * inner, count * columns))
    refuse_size((count, rows, inner))
    zero = np.rint(grid.offset / grid.scale).astype(np.int64)
    ints, scale = (
        np.broadcast_to(a, (*lead, inner, columns)).reshape(count, inner, columns)
        for a in (grid.ints + zero, grid.scale)
    )
    blocks = np.zeros((count, inner, count, columns), np.int64)
    place = np.arange(count)
    blocks[place, :, place] = ints
    scales = np.broadcast_to(scale[:, :, None], blocks.shape)
    whole = count * inner, count * columns
    flat, unit = blocks.reshape(whole), np.asarray(scales, np.float64).reshape(whole)
    symbol = x
    for move in (
        broadcast_by(layer, (*lead, rows, inner)),
        reshape_to(layer, (count, rows, inner)),
        transpose_by(layer, (1, 0, 2)),
        reshape_to(layer, (rows, count * inner)),
    ):
        symbol = moved(builder, layer, symbol, move)
    symbol = matmul(builder, layer, symbol, Clear(flat * unit, flat, unit, np.zeros(flat.shape)))
    for move in (
        reshape_to(layer, (rows, count, columns)),
        transpose_by(layer, (1, 0, 2)),
        reshape_to(layer, (*lead, rows, columns)),
    ):
        symbol = moved(builder, layer, symbol, move)
    return symbol


def gemm(
    builder: Builder, layer: str, args: Sequence[Symbol | None], attr: dict[str, Any]
) -> Symbol:
    """alpha * A @ B + beta * C, A and B turned where the attributes say so."""
    a, b = args[0], args[1]
    assert a is not None and b is not None
    if (len(a.shape), len(b.shape)) != (2, 2):
        raise LoweringError(
            f"its operands have shapes {a.shape} and {b.shape}, it multiplies matrices; use MatMul"
        )
    turn = transpose_by(layer, (1, 0))
    if attr.get("transA", 0):
        a = moved(builder, layer, a, turn)
    if attr.get("transB", 0):
        b = moved(builder, layer, b, turn)
    found = _times(builder, layer, product(builder, layer, a, b), attr.get("alpha", 1.0))
    if len(args) < 3 or args[2] is None:
        return found
    c = _times(builder, layer, args[2], attr.get("beta", 1.0))
    return binary(builder, layer, helper.make_node("Add", ["x", "y"], ["z"]), found, c)


def _times(builder: Builder, layer: str, symbol: Symbol, factor: float) -> Symbol:
    if factor == 1.0:
        return symbol
    if isinstance(symbol, Clear):
        return Clear(symbol.value * np.float32(factor))
    node = helper.make_node("Mul", ["x", "y"], ["z"])
    return binary(builder, layer, node, symbol, Clear(np.array(factor, np.float32)))


def einsum(
    builder: Builder, layer: str, args: Sequence[Symbol | None], attr: dict[str, Any]
) -> Symbol:
    """One or two operands: sums over letters of one alone, then a product of matrices."""
    text = attr["equation"]
    equation = (text.decode() if isinstance(text, bytes) else str(text)).replace(" ", "")
    match = _EINSUM.fullmatch(equation)
    given = [a for a in args if a is not None]
    if not match or "..." in equation:
        raise LoweringError(f"Einsum '{equation}'; write a letter for every axis")
    terms = match[1].split(",")
    out = match[2]
    if out is None:
        out = "".join(sorted(c for c in set(match[1]) - {","} if match[1].count(c) == 1))
    fits = len(terms) == len(given) and all(
        len(t) == len(set(t)) == len(a.shape) for t, a in zip(terms, given, strict=False)
    )
    if not fits or len(given) > 2 or len(set(out)) != len(out):
        raise LoweringError(
            f"Einsum '{equation}' of {len(given)} operands is not supported; one or two are, "
            "with each letter once in a term"
        )
    for i, term in enumerate(terms):
        elsewhere = "".join([*terms[:i], *terms[i + 1 :], out])
        lonely = [c for c in term if c not in elsewhere]
        if lonely:
            axes = tuple(term.index(c) for c in lonely)
            given[i] = reduce(builder, layer, "ReduceSum", given[i], axes, keepdims=False)
            terms[i] = "".join(c for c in term if c not in lonely)
    if len(given) == 1:
        return _ordered(builder, layer, given[0], terms[0], out)
    return _pair(builder, layer, given, terms, out)


def _ordered(builder: Builder, layer: str, x: Symbol, letters: str, out: str) -> Symbol:
    perm = tuple(letters.index(c) for c in out)
    if perm == tuple(range(len(perm))):
        return x
    return moved(builder, layer, x, transpose_by(layer, perm))


def _pair(builder: Builder, layer: str, given: list[Symbol], terms: list[str], out: str) -> Symbol:
    first, second = terms
    size: dict[str, int] = {}
    for term, symbol in zip(terms, given, strict=True):
        size |= zip(term, symbol.shape, strict=True)
    both = [c for c in first if c in second]
    batch = [c for c in both if c in out]
    summed = [c for c in both if c not in out]
    own = [[c for c in term if c not in both] for term in terms]

    def sizes(*groups: list[str]) -> tuple[int, ...]:
        return tuple(math.prod(size[c] for c in group) for group in groups)

    front = tuple(size[c] for c in batch)
    sides = []
    for symbol, term, groups in zip(
        given, terms, ((own[0], summed), (summed, own[1])), strict=True
    ):
        order = "".join([*batch, *groups[0], *groups[1]])
        placed = _ordered(builder, layer, symbol, term, order)
        shape = (*front, *sizes(*groups))
        sides.append(moved(builder, layer, placed, reshape_to(layer, shape)))
    found = product(builder, layer, *sides)
    letters = "".join([*batch, *own[0], *own[1]])
    spread = reshape_to(layer, tuple(size[c] for c in letters))
    return _ordered(builder, layer, moved(builder, layer, found, spread), letters, out)
