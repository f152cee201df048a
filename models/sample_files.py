"""A .npz or .csv file of samples in, numbers (N, …) and their classes (N,) out, both checked."""

from __future__ import annotations

import array
import csv
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.arrays import read_arrays

LABEL = "label"
LONGEST_LABEL = 200  # characters
MOST_CLASSES = 1000
LARGEST, SMALLEST = 1e30, 1e-30  # magnitudes whose squares and inverses float32 still holds
_WHOLE = re.compile(r"[+-]?\d+")


class Samples(NamedTuple):
    """Numbers x (N, …), the class (N,) of each as an index, and the name of each class."""

    x: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: tuple[str, ...]


def read_sample_file(path: Path) -> Samples:
    """`x` of rank 2 or 3 and `y` of rank 1, of a .npz by these names or a .csv with a `label`.

    Raises:
        InputError: the file cannot be read, x are no finite numbers of a usable size, y is no
            classes, or they do not belong together.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; give a .npz with x and y, or a .csv with 'label'")
    match path.suffix.lower():
        case ".npz":
            return _read_npz(path)
        case ".csv":
            return _read_csv(path)
    raise InputError(f"{path}: cannot read {path.suffix or 'it'}; give a .npz or a .csv")


def _checked(x: NDArray[Any], source: str) -> NDArray[np.float32]:
    """Samples as float32, if they are numbers of a size that can be worked with."""
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3):
        raise InputError(f"{source}: x is {x.dtype}, rank {x.ndim}; give numbers, rank 2 or 3")
    return checked_numbers(x, source)


def checked_numbers(x: NDArray[Any], source: str, name: str = "x") -> NDArray[np.float32]:
    """Numbers of any rank as float32, if they are finite and of a size that can be worked with."""
    if x.dtype.kind not in "biuf":
        raise InputError(f"{source}: {name} is {x.dtype}; give numbers")
    if x.size == 0:
        raise InputError(f"{source}: {name} has shape {x.shape}, it holds no numbers; give samples")
    if not np.isfinite(x).all():
        raise InputError(f"{source}: {name} holds NaN or infinity; remove those samples")
    largest = max(abs(float(x.max())), abs(float(x.min())))  # -2**63 has no positive of its kind
    if largest and not SMALLEST <= largest <= LARGEST:
        raise InputError(
            f"{source}: the largest number of {name} is {largest:g}, the limits are {SMALLEST:g} "
            f"and {LARGEST:g}; give it in another unit"
        )
    return x.astype(np.float32)


def named_classes(
    y: NDArray[Any], source: str, name: str = "y"
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The index of each label's class and the names of all, which are text or whole numbers."""
    if y.dtype.kind not in "biufU":
        raise InputError(f"{source}: {name} is {y.dtype}; give whole numbers or text")
    if y.dtype.kind == "U" and y.dtype.itemsize > 4 * LONGEST_LABEL:
        raise InputError(f"{source}: {_too_long(y.dtype.itemsize // 4)}")
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise InputError(
                f"{source}: {name} holds NaN or infinity; remove samples without a label"
            )
        wrong = y[(y != np.round(y)) | (np.abs(y) >= 2**53)]
        if len(wrong):
            raise InputError(
                f"{source}: {name} holds {float(wrong[0]):g}, and classes are whole numbers or "
                f"text; name them so"
            )
        y = y.astype(np.int64)
    names, classes = np.unique(y, return_inverse=True)
    if len(names) > MOST_CLASSES:
        raise InputError(f"{source}: {_too_many(str(names[-1]))}")
    return classes.astype(np.int64), tuple(str(name) for name in names)


def _too_many(label: str) -> str:
    return f"more than {MOST_CLASSES} classes, {label!r} among them; merge some"


def _read_npz(path: Path) -> Samples:
    arrays = read_arrays(path, ["x", "y"])
    for name in ("x", "y"):
        if name not in arrays:
            raise InputError(
                f"{path} has no array {name!r}; save it with numpy.savez(path, x=..., y=...)"
            )
    x, y, source = arrays["x"], arrays["y"], str(path)
    one_class_each(x, y, source)
    return Samples(_checked(x, source), *named_classes(y, source))


def one_class_each(
    x: NDArray[Any], y: NDArray[Any], source: str, of_x: str = "x", of_y: str = "y"
) -> None:
    """Refuse labels that are not one for each sample."""
    if y.ndim != 1 or x.ndim == 0 or len(y) != len(x):
        raise InputError(
            f"{source}: {of_x} has shape {x.shape} but {of_y} has shape {y.shape}; give each sample"
            " one class"
        )


def _read_csv(path: Path) -> Samples:
    """Row by row: a cell takes eight bytes, however short it is in the file."""
    values, labels = array.array("d"), array.array("q")
    known: dict[str, int] = {}
    with _rows(path) as rows:
        column, width = _heading(path, next(rows, (0, [])))
        for number, row in rows:
            if len(row) != width:
                raise InputError(
                    f"{path}, row {number}: {len(row)} cells under {width} headings; mend the row"
                )
            label = row.pop(column)
            labels.append(known.setdefault(label, len(known)))
            if wrong := wrong_label(label, known):
                raise InputError(f"{path}, row {number}: {wrong}")
            try:
                values.extend(map(float, row))
            except ValueError as error:
                raise InputError(
                    f"{path}, row {number}: {error}; every column but {LABEL!r} must hold numbers"
                ) from None
    if not values:
        raise InputError(f"{path}: holds no samples; give rows of numbers under the headings")
    x = np.frombuffer(values, np.float64).reshape(len(labels), width - 1)
    index, names = named_classes(_numbered(np.array(list(known))), str(path))
    return Samples(_checked(x, str(path)), index[np.frombuffer(labels, np.int64)], names)


def wrong_label(label: str, known: Collection[str]) -> str:
    """What is wrong with a label, or nothing."""
    if not label:
        return "has no label; name its class or remove it"
    if len(label) > LONGEST_LABEL:
        return _too_long(len(label))
    return _too_many(label) if len(known) > MOST_CLASSES else ""


def _too_long(length: int) -> str:
    return f"a label of {length} characters, the limit is {LONGEST_LABEL}; shorten it"


def _heading(path: Path, first: tuple[int, list[str]]) -> tuple[int, int]:
    """Which column is the label, and how many there are."""
    _, header = first
    match header.count(LABEL):
        case 1:
            return header.index(LABEL), len(header)
        case 0:
            raise InputError(
                f"{path} has no column {LABEL!r}; name the class column that in its header"
            )
    raise InputError(f"{path} has several columns {LABEL!r}; keep one")


def _numbered(labels: NDArray[np.str_]) -> NDArray[Any]:
    """Labels as numbers where all are, unless they are plain whole numbers: "007" stays a name."""
    if all(map(_WHOLE.fullmatch, labels)):
        return labels
    try:
        return labels.astype(np.float64)
    except ValueError:
        return labels


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Line number and cells of every row that is not empty."""
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets mark the byte order
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        cells = ((reader.line_num, [cell.strip() for cell in line]) for line in reader)
        try:
            yield (row for row in cells if row[1] not in ([], [""]))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text ({error.reason}); convert it") from None
        except csv.Error as error:
            raise InputError(f"{path} cannot be read ({error}); write it again") from None
