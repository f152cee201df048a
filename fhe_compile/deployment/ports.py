"""Ports and how each is encrypted in, JSON out, and back: checked against the compiled circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.deployment.specification import Function, Gate
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.port_json import port_from_json, port_to_json
from torusformer.fhe_compile.tfhe.encoding import EncodedPort, bits_for

_LARGEST = 2**62  # of any integer: sums of two fit in 64 bits
_WIDEST, _MOST_PARTS = 62, 2**12


def ports_to_json(
    inputs: Sequence[EncodedPort], outputs: Sequence[EncodedPort]
) -> dict[str, list[dict[str, Any]]]:
    """Ports of one function and how each is encrypted, ready for JSON."""
    return {"inputs": [*map(_to_json, inputs)], "outputs": [*map(_to_json, outputs)]}


def _to_json(encoded: EncodedPort) -> dict[str, Any]:
    return {
        **port_to_json(encoded.port),
        "base": _smallest(encoded.base),
        "bits": encoded.bits,
        "shift": encoded.shift,
        "parts": encoded.parts,
    }


def _smallest(base: np.ndarray) -> object:
    base = np.asarray(base)
    same = base.size > 0 and bool((base == base.flat[0]).all())
    return int(base.flat[0]) if same else base.tolist()


def ports_from_json(
    data: Mapping[str, Any], function: Function, wired: bool = False
) -> tuple[tuple[EncodedPort, ...], tuple[EncodedPort, ...]]:
    """Inverse of `ports_to_json` for a function that was compiled, perhaps `wired` to others.

    ValueError, KeyError or TypeError for what is not, or cannot be of this function.
    """
    inputs, outputs = (
        [_from_json(i, port) for i, port in enumerate(_list(data[side]))]
        for side in ("inputs", "outputs")
    )
    for side in (inputs, outputs):  # an output may be an input as it is
        if len({encoded.port.name for encoded in side}) != len(side):
            raise ValueError("two ports of one name")
    given = len(function.outputs)
    # Behind the outputs are, perhaps, inputs that nothing reads.
    if len(inputs) != len(function.inputs) or not 0 <= given - len(outputs) <= len(inputs):
        raise ValueError(
            f"{len(inputs)} inputs and {len(outputs)} outputs of {function.name}, which was "
            f"compiled with {len(function.inputs)} and {given}"
        )
    for encoded, gate in zip(inputs, function.inputs, strict=True):
        _check_input(encoded, gate, wired)
    for encoded, gate in zip(outputs, function.outputs, strict=False):
        _check_output(encoded, gate, wired)
    return tuple(inputs), tuple(outputs)


def _from_json(index: int, data: Any) -> EncodedPort:
    if not isinstance(data, dict) or not isinstance(data["name"], str):
        raise TypeError("a port that is none")
    name = data["name"]
    shape = tuple(_whole(name, "shape", n, 0, 2**31) for n in _list(data["shape"]))
    lo, hi = (_whole(name, end, data[end], -_LARGEST, _LARGEST) for end in ("lo", "hi"))
    if lo > hi:
        raise ValueError(f"{name!r} with lo {lo} above hi {hi}")
    if math.prod(shape) > 2**31 or len(shape) > 16:
        raise ValueError(f"{name!r} of shape {shape}")
    scale, _ = (_reals(name, field, data[field], shape) for field in ("scale", "zero_point"))
    if (scale <= 0).any():
        raise ValueError(f"{name!r} with a scale that is not positive")
    if "table" in data:
        _whole_array(name, "table", data["table"])
        if len(shape) != 3:
            raise ValueError(f"{name!r} with a table and shape {shape}")
    for flag in ("signed", "one_hot"):
        if not isinstance(data[flag], bool):
            raise TypeError(f"{name!r} with {flag} {data[flag]!r}")
    encoded = EncodedPort(
        port_from_json(data),
        index,
        _whole_array(name, "base", data["base"]),
        _whole(name, "bits", data["bits"], 1, _WIDEST),
        _whole(name, "shift", data["shift"], 0, _WIDEST),
        parts=_whole(name, "parts", data["parts"], 1, _MOST_PARTS),
    )
    port = encoded.port
    if (port.signed, port.bit_width) != (data["signed"], data["bit_width"]):
        raise ValueError(f"{name!r} with other bits than {lo} to {hi} has")
    if port.one_hot and (not shape or (lo, hi) != (0, 1)):
        raise ValueError(f"{name!r} is one-hot with integers from {lo} to {hi}")
    return encoded


def _check_input(encoded: EncodedPort, gate: Gate, wired: bool) -> None:
    """What enters is its distance from `lo`, or from one below where it comes from a function."""
    port = encoded.port
    away = port.lo - encoded.base
    if encoded.base.ndim or away not in ((0, 1) if wired else (0,)):
        raise ValueError(f"{port.name!r} with a base other than its least integer, {port.lo}")
    expected = (bits_for(port.hi - int(encoded.base)), 0, 1)
    if (encoded.bits, encoded.shift, encoded.parts) != expected:
        raise ValueError(f"{port.name!r} with other bits, shift or parts than an input has")
    _check_gate(encoded, gate)


def _check_output(encoded: EncodedPort, gate: Gate, wired: bool) -> None:
    """What leaves begins between `lo` and `hi`, or lower where another function takes it.

    It may reach less far than `lo` to `hi` (more is known of it once it is compiled) and further
    (bits are whole).
    """
    port, least = encoded.port, encoded.base >> encoded.shift
    begins = (wired or least.min() >= port.lo) and least.max() <= port.hi
    if encoded.parts == 1 and not begins:
        raise ValueError(
            f"{port.name!r} with a base and a shift that begin at {least.min()}, not from "
            f"{port.lo} to {port.hi}"
        )
    _check_gate(encoded, gate)


def _check_gate(encoded: EncodedPort, gate: Gate) -> None:
    ciphertext, port = gate.ciphertext, encoded.port
    shape = port.shape if encoded.parts == 1 else (encoded.parts, *port.shape)
    try:
        np.broadcast_shapes(shape, encoded.base.shape)
    except ValueError:
        raise ValueError(f"{port.name!r} with a base of shape {encoded.base.shape}") from None
    if [*shape] != ciphertext.abstract_shape.dimensions:
        raise ValueError(
            f"{port.name!r} of shape {shape}, compiled with {ciphertext.abstract_shape.dimensions}"
        )
    encoding = ciphertext.encoding.integer
    if encoded.bits > encoding.width or encoding.is_signed:
        raise ValueError(f"{port.name!r} of {encoded.bits} bits, compiled with {encoding.width}")


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError("what should be a list and is none")
    return data


def _whole(name: str, field: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name!r} with {field} {str(value)[:40]}, not from {least} to {most}")
    return value


def _whole_array(name: str, field: str, value: Any) -> IntArray:
    found = np.asarray(value)
    if found.dtype.kind not in "iu" or found.size == 0 or abs(found).max() > _LARGEST:
        raise ValueError(f"{name!r} with {field} of other than whole numbers up to 2^62")
    return found.astype(np.int64)


def _reals(name: str, field: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    found = np.asarray(value)
    if found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise ValueError(f"{name!r} with {field} of other than finite numbers")
    np.broadcast_shapes(found.shape, shape)  # ValueError if it does not
    return found.astype(np.float64)
