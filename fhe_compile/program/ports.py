"""Numbers from outside in, checked integers of the program's ports out, and integers to reals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torusformer import InputError
from torusformer.fhe_compile.program.nodes import IntArray, Port


def check_ports(
    ports: Sequence[Port], inputs: Mapping[str, ArrayLike] | ArrayLike
) -> dict[str, IntArray]:
    """Arrays by port name, each checked; a program with one input also takes the bare array."""
    values = named_inputs(ports, inputs)
    return {port.name: check_array(port, value) for port, value in zip(ports, values, strict=True)}


def named_inputs(
    ports: Sequence[Port], inputs: Mapping[str, ArrayLike] | ArrayLike
) -> list[ArrayLike]:
    """One value for each port, in order."""
    if not isinstance(inputs, Mapping):
        if len(ports) != 1:
            all_names = ", ".join(port.name for port in ports)
            raise InputError(f"there are several inputs: hand them over by name ({all_names})")
        return [inputs]
    names = {port.name for port in ports}
    if missing := names - inputs.keys():
        raise InputError(f"input {min(missing)!r} is missing")
    if foreign := inputs.keys() - names:
        raise InputError(f"there is no input {min(foreign)!r}, only {', '.join(sorted(names))}")
    return [inputs[port.name] for port in ports]


def check_array(port: Port, value: ArrayLike) -> IntArray:
    """An int64 array of the port's shape, every element within its bounds, contiguous."""
    array = _as_array(port, value)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError(f"input {port.name!r} holds NaN, it takes integers")
    if array.dtype.kind not in "iu":
        raise InputError(
            f"input {port.name!r} is {array.dtype}, it takes integers in [{port.lo}, {port.hi}]: "
            f"quantize first, round(x / scale + zero_point)"
        )
    check_shape(port, array, port.shape)
    low, high = port.bounds
    if ((array < low) | (array > high)).any():
        raise InputError(
            f"input {port.name!r} holds integers in [{array.min()}, {array.max()}], it takes "
            f"[{port.lo}, {port.hi}]"
        )
    if port.one_hot and (array.sum(axis=-1) != 1).any():
        raise InputError(
            f"input {port.name!r} is an index in {port.shape[-1]} bits, of which exactly one is set"
        )
    # Concrete misreads arrays that are not contiguous, without a word.
    return np.ascontiguousarray(array, dtype=np.int64)


def check_shape(port: Port, value: ArrayLike, wanted: tuple[int, ...]) -> None:
    """Refuse what has another shape than the port's integers, or its real numbers."""
    shape = _as_array(port, value).shape
    if shape != wanted:
        raise InputError(f"input {port.name!r} has shape {shape}, it takes {wanted}")


def _as_array(port: Port, value: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {port.name!r} is ragged, it takes shape {port.shape}") from error


def quantize_array(port: Port, x: ArrayLike) -> IntArray:
    """round(x / scale + zero_point), half to even, clipped to the port's range, as in training.

    `x` has the port's real shape, or one that broadcasts with its scale. Where the port takes
    tokens, they become one-hot rows or rows of its table.
    """
    x = _as_array(port, x)
    if port.vocabulary is not None:
        return _rows_of_tokens(port, x, port.vocabulary)
    if port.real_shape != port.shape:
        x = x[..., None]
    if x.dtype.kind not in "biuf":
        raise InputError(f"input {port.name!r} is {x.dtype}; give numbers")
    if not np.isfinite(x).all():
        raise InputError(f"input {port.name!r} holds NaN or infinity; remove those samples")
    q_x = np.rint(x / port.scale + port.zero_point)
    return np.clip(q_x, port.lo, port.hi).astype(np.int64)


def _rows_of_tokens(port: Port, tokens: NDArray[Any], vocabulary: int) -> IntArray:
    """(..., T) whole numbers below the vocabulary to (..., T, V) bits or (..., T, D) integers."""
    whole = tokens.dtype.kind in "iu" or (tokens.dtype.kind == "f" and (tokens % 1 == 0).all())
    if not whole:
        raise InputError(f"input {port.name!r} takes tokens, whole numbers; encode the text first")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocabulary):
        raise InputError(
            f"input {port.name!r} holds tokens from {tokens.min()} to {tokens.max()}, it takes "
            f"0 to {vocabulary - 1}"
        )
    tokens = tokens.astype(np.int64)
    if port.table is None:
        bits = np.zeros((*tokens.shape, vocabulary), np.int64)
        np.put_along_axis(bits, tokens[..., None], 1, axis=-1)
        return bits
    return port.table[np.arange(tokens.shape[-1]) % len(port.table), tokens]


def dequantize_array(port: Port, q_y: IntArray) -> NDArray[np.float64]:
    """scale * (integer - zero_point); of one-hot rows, which bit is set."""
    if port.one_hot:
        return np.asarray(q_y).argmax(axis=-1).astype(np.float64)
    return np.asarray(port.scale * (q_y - port.zero_point), dtype=np.float64)
