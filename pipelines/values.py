"""Real samples in, a port's integers out: what stands between data and a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.arrays import read_arrays
from torusformer.fhe_compile import Port
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import check_array, quantize_array


def to_integers(port: Port, x: NDArray[Any]) -> IntArray:
    """Quantize one sample or samples (N, ...) to (N, *port.shape), as training did.

    Rounds half to even and clips.

    >>> to_integers(Port("x", (1, 2), lo=0, hi=3, scale=np.array(0.5)), np.array([[0.6, 9.0]]))
    array([[[1, 3]]])
    """
    rows = _in_rows(port, x, port.real_shape)
    with np.errstate(over="ignore"):  # what is beyond a float is clipped as all beyond the range
        return quantize_array(port, rows)


def _in_rows(port: Port, x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """One sample or several, with or without the leading 1 of `shape`, as (N, *shape)."""
    sample = shape[1:] if shape[:1] == (1,) else shape
    if x.dtype.kind not in "biuf":
        raise InputError(f"input {port.name!r} is {x.dtype}; give numbers")
    if x.shape not in (sample, shape) and x.shape[1:] not in (sample, shape):
        raise InputError(
            f"input {port.name!r} has shape {x.shape}, the program takes {sample}, or several "
            f"of them as (N, {', '.join(map(str, sample))})"
        )
    return x.reshape(-1, *shape)


def read_samples(
    path: Path, ports: Sequence[Port], *, integers: bool = False
) -> list[dict[str, IntArray]]:
    """The samples of a .npy or .npz file, quantized unless they are `integers` already."""
    arrays = _read(path, [p.name for p in ports])
    return to_samples(ports, arrays, integers=integers, place=f"{path}: ")


def to_samples(
    ports: Sequence[Port],
    arrays: Mapping[str, NDArray[Any]],
    *,
    integers: bool = False,
    place: str = "",
) -> list[dict[str, IntArray]]:
    """Samples by input, (N, ...), as N samples, quantized unless they are `integers` already."""
    columns = {}
    for port in ports:
        x = arrays[port.name]
        if integers:
            columns[port.name] = [check_array(port, row) for row in _in_rows(port, x, port.shape)]
        else:
            columns[port.name] = list(to_integers(port, x))
    counts = {name: len(rows) for name, rows in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"{place}inputs differ in number of samples: {counts}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .npy or .npz")
    arrays = read_arrays(path)
    if len(names) == len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}
    if missing := [name for name in names if name not in arrays]:
        raise InputError(f"{path}: has no array {missing[0]!r}; give a .npz with {list(names)}")
    return arrays
