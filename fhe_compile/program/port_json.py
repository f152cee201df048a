"""A port of a program in, JSON values out, and back: in `program.onnx` and in `interface.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torusformer.fhe_compile.program.nodes import IntArray, Port


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
    port = Port(
        str(data["name"]),
        tuple(int(n) for n in data["shape"]),
        int(data["lo"]),
        int(data["hi"]),
        np.asarray(data["scale"], np.float64),
        np.asarray(data["zero_point"], np.float64),
        bool(data.get("one_hot", False)),
        np.asarray(data["table"], np.int64) if "table" in data else None,
    )
    if port.table is not None:
        _check_table(port, port.table)
    return port


def _check_table(port: Port, table: IntArray) -> None:
    _, count, depth = port.shape
    if table.ndim != 3 or len(table) not in (1, count) or table.shape[2] != depth:
        raise ValueError(f"the table of {port.name} has shape {table.shape}")
    if table.min() < port.lo or table.max() > port.hi:
        raise ValueError(f"the table of {port.name} holds {table.min()} to {table.max()}")
