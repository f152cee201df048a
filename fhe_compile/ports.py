"""Integers from outside in, checked arrays of the program's input ports out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from fhe_compile.program import IntArray, Port
from torusformer import InputError


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
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {port.name!r} is ragged, it takes shape {port.shape}") from error
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError(f"input {port.name!r} holds NaN, it takes integers")
    if array.dtype.kind not in "iu":
        raise InputError(
            f"input {port.name!r} is {array.dtype}, it takes integers in [{port.lo}, {port.hi}]: "
            f"quantize first, round(x / scale + zero_point)"
        )
    if array.shape != port.shape:
        raise InputError(f"input {port.name!r} has shape {array.shape}, it takes {port.shape}")
    if array.size and (array.min() < port.lo or array.max() > port.hi):
        raise InputError(
            f"input {port.name!r} holds integers in [{array.min()}, {array.max()}], it takes "
            f"[{port.lo}, {port.hi}]"
        )
    # Concrete misreads arrays that are not contiguous, without a word.
    return np.ascontiguousarray(array, dtype=np.int64)
