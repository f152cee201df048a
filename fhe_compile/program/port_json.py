"""A port of a program in, JSON values out, and back: in `program.onnx` and in `interface.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer.fhe_compile.program.nodes import IntArray, Port
from torusformer.fhe_compile.program.onnx_tensors import MAX_RANK
from torusformer.fhe_compile.program.ranges import LIMIT_BITS, MAX_GIVEN


def port_to_json(port: Port) -> dict[str, Any]:
    """Plain numbers and nested lists; a `table` only where there is one."""
    fields = {
        "name": port.name,
        "shape": list(port.shape),
        "lo": int(port.lo),
        "hi": int(port.hi),
        "signed": port.signed,
        "bit_width": port.bit_width,
        "scale": np.asarray(port.scale, np.float64).tolist(),
        "zero_point": np.asarray(port.zero_point, np.float64).tolist(),
        "one_hot": port.one_hot,
    }
    return fields if port.table is None else {**fields, "table": port.table.tolist()}


def port_from_json(data: Mapping[str, Any]) -> Port:
    """Inverse of `port_to_json`; KeyError, TypeError or ValueError for anything else."""
    name, one_hot = data["name"], data.get("one_hot", False)
    shape = tuple(_whole(n) for n in data["shape"])
    if not isinstance(name, str) or not name or not isinstance(one_hot, bool):
        raise ValueError("a port's name or one_hot is of another kind")
    if len(shape) > MAX_RANK or any(n < 1 for n in shape) or math.prod(shape) > MAX_GIVEN:
        raise ValueError(f"port {name} has shape {shape}")
    port = Port(
        name,
        shape,
        _whole(data["lo"]),
        _whole(data["hi"]),
        _reals(name, data["scale"], shape),
        _reals(name, data["zero_point"], shape),
        one_hot,
        np.asarray(data["table"]) if "table" in data else None,
    )
    if port.lo > port.hi or (one_hot and ((port.lo, port.hi) != (0, 1) or not shape)):
        raise ValueError(f"port {name} has bounds [{port.lo}, {port.hi}]")
    if (port.scale == 0).any():
        raise ValueError(f"the scale of {name} is 0")
    if port.table is not None:
        _check_table(port, port.table)
    return port


def _whole(value: object) -> int:
    """A whole number that is one in JSON too."""
    if type(value) is not int or abs(value) >= 2**LIMIT_BITS:
        raise ValueError(f"{value!r} where a whole number below 2^{LIMIT_BITS} belongs")
    return value


def _reals(name: str, value: object, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Finite numbers that broadcast over the shape."""
    found = np.asarray(value)
    if found.dtype.kind not in "if" or not np.isfinite(found).all():
        raise ValueError(f"the scale or zero point of {name} is no number")
    if np.broadcast_shapes(found.shape, shape) != shape:
        raise ValueError(f"the scale or zero point of {name} has shape {found.shape}")
    return found.astype(np.float64)


def _check_table(port: Port, table: IntArray) -> None:
    if len(port.shape) != 3 or table.dtype.kind != "i" or not table.size or port.one_hot:
        raise ValueError(f"the table of {port.name} is none of whole numbers")
    _, count, depth = port.shape
    if table.ndim != 3 or len(table) not in (1, count) or table.shape[2] != depth:
        raise ValueError(f"the table of {port.name} has shape {table.shape}")
    if table.min() < port.lo or table.max() > port.hi:
        raise ValueError(f"the table of {port.name} holds {table.min()} to {table.max()}")
