"""Pending expression in, table values out.

An expression is evaluated in float32, as in training, by ONNX's own reference operators, on every
integer its operands can take. Channels with equal parameters share a column.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import defs, helper
from onnx.reference import ReferenceEvaluator

from torusformer import LoweringError
from torusformer.fhe_compile.frontend.symbols import (
    Affine,
    Clear,
    Pending,
    Symbol,
    refuse_size,
)
from torusformer.fhe_compile.program.nodes import IntArray

# Operators that act on each element alone.
# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "Acos", "Add", "And", "Asin", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish",
    "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Tan", "Tanh",
    "ThresholdedRelu", "Where", "Xor",
))
# fmt: on
# Others that are computed of constants; each gives no more numbers than it takes.
_FOLDED = frozenset(
    (
        "ArgMax",
        "ArgMin",
        "CumSum",
        "Gather",
        "GatherElements",
        "LayerNormalization",
        "LogSoftmax",
        "ReduceL1",
        "ReduceL2",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "ScatterElements",
        "ScatterND",
        "Size",
        "Softmax",
        "Trilu",
    )
)
# What the reference implementation of ONNX raises for operands that it was not written for.
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
_OPSET = 17


@functools.lru_cache(maxsize=256)
def _opset_of(op: str) -> int:
    """That by which an operator is computed here: 17, or the first that has it."""
    return _OPSET if defs.has(op, _OPSET, "") else int(defs.get_schema(op, "").since_version)


@functools.lru_cache(maxsize=256)
def _operator(node: bytes, types: tuple[int, ...]) -> ReferenceEvaluator:
    proto = onnx.NodeProto.FromString(node)
    names = [name for name in proto.input if name]
    graph = helper.make_graph(
        [proto],
        "op",
        [helper.make_tensor_value_info(n, t, None) for n, t in zip(names, types, strict=True)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)],
    )
    opsets = [helper.make_opsetid("", _opset_of(proto.op_type))]
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets))


def apply(proto: onnx.NodeProto, args: list[np.ndarray | None]) -> np.ndarray:
    """One ONNX operator on arrays; `None` stands for an absent optional input."""
    _refuse_growth(proto, args)
    opset = _opset_of(proto.op_type)
    known = defs.get_schema(proto.op_type, opset, "").attributes
    if old := [a.name for a in proto.attribute if a.name not in known]:
        raise LoweringError(
            f"attribute '{old[0]}' of {proto.op_type} is not that of opset {opset}, by which "
            "constants and tables are computed; export with that opset"
        )
    bare = onnx.NodeProto()
    bare.CopyFrom(proto)
    bare.name = ""
    del bare.input[:], bare.output[:]
    bare.input.extend("" if a is None else f"x{i}" for i, a in enumerate(args))
    bare.output.append("y")
    feeds = {f"x{i}": a for i, a in enumerate(args) if a is not None}
    types = tuple(helper.np_dtype_to_tensor_dtype(a.dtype) for a in feeds.values())
    try:
        with np.errstate(all="ignore"):
            (result,) = _operator(bare.SerializeToString(), types).run(None, feeds)
    except _REFUSALS as error:
        reason = " ".join(str(error).split())[:120]
        raise LoweringError(
            f"ONNX computes no {proto.op_type} of these constants ({reason})"
        ) from (None)
    return np.asarray(result)


def _letters(proto: onnx.NodeProto, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """How far every letter of an Einsum's equation runs: their product is its work."""
    equation = next((a.s.decode() for a in proto.attribute if a.name == "equation"), "")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "..." in equation or [len(t) for t in terms] != [len(shape) for shape in shapes]:
        raise LoweringError(f"Einsum '{equation}' of constants; write a letter for every axis")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 0))
    return tuple(sizes.values())


def _refuse_growth(proto: onnx.NodeProto, args: Sequence[np.ndarray | None]) -> None:
    """A LoweringError before more is computed than a graph may hold, or what is not known."""
    op, given = proto.op_type, [a for a in args if a is not None]
    if op == "Mod" and given[0].dtype.kind == "f" and not any(a.i for a in proto.attribute):
        raise LoweringError("a Mod of reals without fmod, which ONNX does not define")
    shapes = [a.shape for a in given]
    if op in ELEMENTWISE or op in ("Mean", "Sum"):
        refuse_size(np.broadcast_shapes(*shapes))
    elif op in ("MatMul", "Gemm"):
        if not all(shapes):
            raise LoweringError(f"{op} of a single number; use Mul")
        refuse_size((max(1, given[0].size), *shapes[1][-1:]))
    elif op == "ConstantOfShape":
        refuse_size(tuple(int(n) for n in given[0].ravel()))
    elif op == "Range" and all(a.size == 1 for a in given):
        start, limit, step = (float(a.reshape(-1)[0]) for a in given)
        if not step or not math.isfinite(count := (limit - start) / step):
            raise LoweringError("a Range without end")
        refuse_size((max(0, math.ceil(count)),))
    elif op == "Tile" and given[1].size == given[0].ndim:
        repeats = (int(n) for n in given[1].ravel())
        refuse_size(tuple(n * m for n, m in zip(shapes[0], repeats, strict=True)))
    elif op == "Concat":
        refuse_size((sum(a.size for a in given),))
    elif op == "Einsum":
        refuse_size(_letters(proto, shapes))
    elif op not in _FOLDED:
        raise LoweringError(
            f"operator {op} is not supported on constants; export with constant folding"
        )


def varying_index(symbol: Pending | Affine, *others: np.ndarray) -> tuple[slice, ...]:
    """An index that keeps axes along which a parameter or one of `others` varies.

    Of every other axis it keeps the first element.
    """
    leaves = symbol.leaves() if isinstance(symbol, Pending) else [symbol]
    shape = symbol.shape
    arrays = list(others)
    for leaf in leaves:
        parts = (leaf.scale, leaf.offset) if isinstance(leaf, Affine) else (leaf.value,)
        arrays.extend(np.broadcast_to(p, shape) for p in parts)
    return tuple(
        slice(None) if any((a != np.take(a, [0], axis=axis)).any() for a in arrays) else slice(0, 1)
        for axis in range(len(shape))
    )


def evaluate(
    symbol: Symbol | None,
    integers: Mapping[str, IntArray],
    shape: tuple[int, ...],
    index: tuple[slice, ...],
) -> np.ndarray | None:
    """The expression's float32 value where root `r` holds `integers[r]`.

    `integers` have shape (R, 1, …, 1) with rank len(shape) + 1; the result broadcasts to
    (R, *shape[index]).
    """
    if symbol is None:
        return None
    if isinstance(symbol, Affine):
        scale = np.broadcast_to(symbol.scale, shape)[index]
        offset = np.broadcast_to(symbol.offset, shape)[index]
        steps = offset / scale
        near = np.rint(steps)
        # A sum that is 0 in steps is 0: a sign is read off it.
        whole = np.abs(steps - near) <= 1e-9 * (1 + np.abs(near))
        place = integers[symbol.var] + np.where(whole, near, 0.0)
        return (place * scale + np.where(whole, 0.0, offset)).astype(np.float32)
    if isinstance(symbol, Clear):
        if symbol.value.ndim == 0:
            return symbol.value
        return np.broadcast_to(symbol.value, shape)[index][None]
    if isinstance(symbol, Pending) and symbol.entries is not None:
        where = evaluate(symbol.args[0], integers, shape, index)
        assert where is not None
        size, place = len(symbol.entries), where.astype(np.int64)
        # Combinations of operands that no input gives may point outside: any entry will do there.
        return symbol.entries[np.where(place < 0, place + size, place).clip(0, size - 1)]
    if isinstance(symbol, Pending):
        return apply(symbol.proto, [evaluate(a, integers, shape, index) for a in symbol.args])
    raise LoweringError("the graph input is used before its quantizer")
