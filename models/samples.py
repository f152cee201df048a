"""Files of samples or scikit-learn's digits in, a task of classes out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.models.task import FloatArray, Task

HELD_OUT = 0.25


def to_tokens(images: FloatArray, patch: tuple[int, int]) -> FloatArray:
    """Cut images (N, H, W) into tokens (N, H/r * W/c, r * c), row by row.

    >>> to_tokens(np.arange(16, dtype=np.float32).reshape(1, 4, 4), (2, 2))[0, 0].tolist()
    [0.0, 1.0, 4.0, 5.0]
    """
    (n, height, width), (r, c) = images.shape, patch
    if height % r or width % c:
        raise InputError(
            f"images of {height}x{width} cannot be cut into patches of {r}x{c};"
            " choose a patch that divides both sides"
        )
    cut = images.reshape(n, height // r, r, width // c, c).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(cut.reshape(n, -1, r * c))


def to_images(tokens: FloatArray, patch: tuple[int, int], height: int) -> FloatArray:
    """Inverse of `to_tokens` for images of `height` rows."""
    (n, count, _), (r, c) = tokens.shape, patch
    rows = height // r
    cut = tokens.reshape(n, rows, count // rows, r, c).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(cut.reshape(n, height, -1))


def _read_npz(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as archive:
        missing = [k for k in ("x", "y") if k not in archive]
        if missing:
            raise InputError(
                f"{path} has no array {missing[0]!r}; save it with numpy.savez(path, x=..., y=...)"
            )
        return archive["x"], archive["y"]


def _read_csv(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets mark the byte order
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    (_, header), *rows = [line for line in lines if line[1] not in ([], [""])] or [(0, [])]
    if "label" not in header:
        raise InputError(f"{path} has no column 'label'; name the class column that in its header")
    column = header.index("label")
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{path}, row {number}: {len(row)} cells under {len(header)} headings; mend the row"
            )
    try:
        x = [[float(v) for i, v in enumerate(row) if i != column] for _, row in rows]
    except ValueError as error:
        raise InputError(f"{path}: {error}; every column but 'label' must hold numbers") from None
    return np.asarray(x, dtype=np.float32), np.asarray([row[column] for _, row in rows])


def _read(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    if not path.is_file():
        raise InputError(f"{path} is missing; give a .npz with x and y, or a .csv with 'label'")
    readers = {".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: cannot read {path.suffix or 'it'}; give a .npz or a .csv")
    try:
        return readers[path.suffix.lower()](path)
    except InputError:
        raise
    except Exception as error:  # zipfile, unicode, pickle refused: all mean an unreadable file
        raise InputError(f"{path} cannot be read ({error}); write it again") from None


def _shape_samples(
    x: FloatArray, patch: tuple[int, int] | None, shape: tuple[int, ...] | None, source: str
) -> FloatArray:
    if shape is not None and x.shape[1:] == shape:
        return x
    if x.ndim == 2 and patch is not None and (side := round(x.shape[1] ** 0.5)) ** 2 == x.shape[1]:
        x = x.reshape(len(x), side, side)
    if x.ndim == 3 and patch is not None:
        x = to_tokens(x, patch)
    if x.ndim == 2 and shape is not None and x.shape[1] == int(np.prod(shape)):
        x = x.reshape(len(x), *shape)
    if x.ndim != 3 or (shape is not None and x.shape[1:] != shape):
        raise InputError(
            f"{source}: samples of shape {x.shape[1:]} do not fit the model's input"
            f" {shape or '(tokens, features)'}; reshape them or change tokens, features or patch"
        )
    return x


def load_digits_task(
    data: str | Path | None, patch: tuple[int, int] | None, input_shape: tuple[int, ...] | None
) -> Task:
    """The task `digits`; `data` replaces its samples by a file of the user's.

    The file is a .npz with `x` (N, tokens, features), (N, height, width) or flat, and `y` (N,);
    or a .csv with a column `label`.
    """
    if data is not None:
        return samples_task("digits", *_read(Path(data)), str(data), patch, input_shape)
    from sklearn.datasets import load_digits

    digits, source = load_digits(), "sklearn.datasets.load_digits"
    patch = patch or (1, 8)
    return samples_task("digits", digits.images, digits.target, source, patch, input_shape)


def samples_task(
    name: str,
    raw: NDArray[np.generic],
    y: NDArray[np.generic],
    source: str,
    patch: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
) -> Task:
    """Samples of rank 2 or 3 and their classes (N,) as a task.

    A quarter, stratified, is held out; the split is fixed.

    Raises:
        InputError: they are no finite numbers, do not fit `input_shape`, or a class has too few.
    """
    from sklearn.model_selection import train_test_split

    if raw.dtype.kind not in "biuf" or raw.ndim not in (2, 3):
        raise InputError(f"{source}: x is {raw.dtype}, rank {raw.ndim}; give numbers, rank 2 or 3")
    if y.ndim != 1 or len(y) != len(raw):
        raise InputError(f"{source}: {len(raw)} samples but y has shape {y.shape}; give one each")
    if not np.isfinite(raw).all():
        raise InputError(f"{source}: x holds NaN or infinity; remove those samples")
    names, classes = np.unique(y, return_inverse=True)
    counts = np.bincount(classes)
    if len(names) < 2 or counts.min() < 4:
        raise InputError(
            f"{source}: {len(names)} classes, the rarest with {counts.min()} samples; give at least"
            " two classes of four samples each"
        )
    x = _shape_samples(raw.astype(np.float32), patch, input_shape, source)
    x_train, x_test, y_train, y_test = train_test_split(
        x, classes.astype(np.int64), test_size=HELD_OUT, stratify=classes, random_state=0
    )
    labels = tuple(str(n) for n in names)
    return Task(name, x_train, y_train, x_test, y_test, labels, source, patch)
