"""The file of `--calibrate` in, real samples by graph input out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.arrays import read_arrays

Arrays = Mapping[str, NDArray[Any]]


def sample_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz, or that of a .npy as "x"."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .npy or .npz of samples")
    return {name or "x": array for name, array in read_arrays(path).items()}


MOST_CHOOSE = 512  # samples that grids and bits are chosen on
_JUDGE = 4  # every so many of the samples judges what the others chose


def split(arrays: Arrays) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Samples that choose, at most `MOST_CHOOSE`, evenly spread, and those that judge: a fourth."""
    choose, judge = dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()
    for name, array in arrays.items():
        rows = np.arange(len(array) if array.ndim else 0)
        ours = rows[rows % _JUDGE != _JUDGE - 1]
        spread = np.linspace(0, len(ours) - 1, min(len(ours), MOST_CHOOSE)).round().astype(int)
        choose[name] = array[ours[spread]] if len(rows) else array
        judge[name] = array[_JUDGE - 1 :: _JUDGE] if len(rows) else array
    return choose, judge


def of_inputs(arrays: Arrays, names: Sequence[str], path: Path) -> dict[str, NDArray[Any]]:
    """Samples (N, ...) of each graph input: the array of its name; of a single input also `x`.

    One array alone is that of a single input, whatever its name.

    Raises:
        InputError: there is no such array, or inputs differ in N.
    """
    if len(names) == 1 and names[0] not in arrays:
        found = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
        arrays = {} if found is None else {names[0]: found}
    if missing := [name for name in names if name not in arrays]:
        raise InputError(f"{path}: has no array {missing[0]!r}; give a .npz with {list(names)}")
    chosen = {name: arrays[name] for name in names}
    counts = {name: len(x) if x.ndim else 0 for name, x in chosen.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"{path}: inputs differ in number of samples: {counts}")
    return chosen
