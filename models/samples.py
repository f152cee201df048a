"""Files of samples or scikit-learn's digits in, a task of classes out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from torusformer import InputError
from torusformer.models.sample_files import Samples, read_sample_file
from torusformer.models.task import FloatArray, Task

HELD_OUT = 0.25
MOST_TOKENS = 8  # that flat samples are cut into unasked


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
            f" {shape or '(tokens, features)'}; reshape them or train such a model, see --shape"
        )
    return x


def _fits(sample: tuple[int, ...], patch: tuple[int, int] | None, shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape become `shape`: as they are, flat, or as images cut."""
    if sample == shape or sample == (math.prod(shape),):
        return True
    if patch is None or len(sample) != 2:
        return False
    (height, width), (r, c) = sample, patch
    return height % r == width % c == 0 and (height // r * width // c, r * c) == shape


def suggested_shape(sample: tuple[int, ...], source: str) -> tuple[int, int]:
    """Tokens and features of flat samples that fit no preset: at most eight tokens of equal size.

    >>> suggested_shape((6,), "a.csv"), suggested_shape((30,), "a.csv")
    ((6, 1), (6, 5))
    """
    if len(sample) == 1:
        tokens = next(t for t in range(MOST_TOKENS, 0, -1) if sample[0] % t == 0)
        if tokens > 1 or sample[0] == 1:
            return tokens, sample[0] // tokens
    raise InputError(
        f"{source}: samples of shape {sample} do not fit the preset, and how they make tokens is "
        f"not plain; say it, as in --shape {_example(sample)} (tokens x features)"
    )


def _example(sample: tuple[int, ...]) -> str:
    return "x".join(map(str, sample if len(sample) == 2 else (sample[0], 1)))


def load_digits_task(
    data: str | Path | None,
    patch: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
    fit: bool = False,
) -> Task:
    """The task `digits`; `data` replaces its samples by a file of the user's.

    The file is a .npz with `x` (N, tokens, features), (N, height, width) or flat, and `y` (N,);
    or a .csv with a column `label`. With `fit`, flat samples that do not fit `patch` and
    `input_shape` are taken as `suggested_shape` says.
    """
    if input_shape is not None and len(input_shape) != 2:
        raise InputError("digits are numbers; give a model of features, not of a vocabulary")
    if data is not None:
        samples, source = read_sample_file(Path(data)), str(data)
        if fit and input_shape and not _fits(samples.x.shape[1:], patch, input_shape):
            patch, input_shape = None, suggested_shape(samples.x.shape[1:], source)
        return samples_task("digits", samples, source, patch, input_shape)
    from sklearn.datasets import load_digits

    digits, source = load_digits(), "sklearn.datasets.load_digits"
    names = tuple(str(name) for name in digits.target_names)
    samples = Samples(digits.images.astype(np.float32), digits.target.astype(np.int64), names)
    return samples_task("digits", samples, source, patch or (1, 8), input_shape)


def samples_task(
    name: str,
    samples: Samples,
    source: str,
    patch: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
) -> Task:
    """Samples of rank 2 or 3 and their classes as a task.

    A quarter, stratified, is held out; the split is fixed.

    Raises:
        InputError: they do not fit `input_shape`, or a class has too few.
    """
    x = _shape_samples(samples.x, patch, input_shape, source)
    return split_task(name, samples._replace(x=x), source, patch)


def split_task(
    name: str,
    samples: Samples,
    source: str,
    patch: tuple[int, int] | None,
    image: tuple[int, int] | None = None,
) -> Task:
    """Samples (N, tokens, features) as a task: a quarter, stratified, is held out, always the same.

    Raises:
        InputError: a class has too few.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(samples.classes)
    if len(counts) < 2 or counts.min() < 4:
        raise InputError(
            f"{source}: {len(counts)} classes, the rarest with {counts.min()} samples; give at "
            f"least two classes of four samples each"
        )
    x_train, x_test, y_train, y_test = train_test_split(
        samples.x, samples.classes, test_size=HELD_OUT, stratify=samples.classes, random_state=0
    )
    return Task(name, x_train, y_train, x_test, y_test, samples.names, source, patch, image=image)
