"""The file of `--calibrate` in, real samples by graph input out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from torusformer import InputError
from torusformer.arrays import read_arrays

Arrays = Mapping[str, NDArray[Any]]


def sample_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz, or that of a .npy as "x"."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .npy or .npz of samples")
    return {name or "x": array for name, array in read_arrays(path).items()}


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
