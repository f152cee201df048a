"""A .npz of images, perhaps with a test part of its own, in; a task of patches out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.arrays import read_arrays
from torusformer.models.config import CHANNELS
from torusformer.models.sample_files import Samples, checked_numbers, named_classes, one_class_each
from torusformer.models.samples import split_task
from torusformer.models.task import FloatArray, Task

GREY, COLOURS = CHANNELS
MOST_PATCHES = 1024  # an image: attention compares each with each
TEST = ("x_test", "y_test")


def load_images_task(
    data: str | Path | None,
    patch: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
    fit: bool = False,
) -> Task:
    """The task `images`: a .npz with `x`, `y` and perhaps `x_test`, `y_test`, cut by `patch`.

    `x` is (N, H, W) in grey, (N, H, W, 3) or (N, 3, H, W) in colour; `y` names a class for each.
    Where there is an `x_test`, it is the held-out part and all of `x` is trained on; otherwise a
    quarter of every class is held out, always the same. Without `fit` the patches must be of
    `input_shape`.
    """
    if input_shape is not None and len(input_shape) != 2:
        raise InputError("images are numbers; give a model of features, not of a vocabulary")
    if data is None:
        raise InputError(
            "the task images has no samples of its own; give --data FILE.npz with x and y"
        )
    source = str(data)
    arrays = _read(Path(data))
    if patch is None:
        raise InputError(
            f"{source}: how its images are cut into patches is not said; give --patch, say 4x4"
        )
    images = _images(arrays["x"], "x", source)
    classes, names = named_classes(arrays["y"], source)
    samples = Samples(to_patches(images, patch, source), classes, names)
    height, width = images.shape[1:3]
    _check_shape(samples.x, patch, input_shape, fit, source)
    if "x_test" not in arrays:
        return split_task("images", samples, source, patch, (height, width))
    shown = _images(arrays["x_test"], "x_test", source)
    if shown.shape[1:] != images.shape[1:]:
        raise InputError(
            f"{source}: images of x are {_size(images)} and those of x_test {_size(shown)}; give"
            " both the same size"
        )
    if len(names) < 2:
        raise InputError(f"{source}: y holds one class, {names[0]}; give samples of two at least")
    y_test = _known_classes(arrays["y_test"], names, source)
    x_test = to_patches(shown, patch, source)
    return Task("images", samples.x, classes, x_test, y_test, names, source, patch,
                image=(height, width))  # fmt: skip


def to_patches(images: FloatArray, patch: tuple[int, int], source: str = "images") -> FloatArray:
    """Cut images (N, H, W, channels) into (N, H/r * W/c, r * c * channels), row by row.

    Channels are innermost: a token holds r rows of c pixels of all their colours.

    >>> to_patches(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), (2, 2))[0, 0].tolist()
    [0.0, 1.0, 4.0, 5.0]
    """
    (n, height, width, channels), (r, c) = images.shape, patch
    if height % r or width % c:
        raise InputError(
            f"{source}: images of {height}x{width} cannot be cut into patches of {r}x{c}; give a"
            " --patch that divides both sides"
        )
    count = height // r * (width // c)
    if count > MOST_PATCHES:
        raise InputError(
            f"{source}: images of {height}x{width} make {count} patches of {r}x{c}, the limit is"
            f" {MOST_PATCHES}; give a larger --patch"
        )
    cut = images.reshape(n, height // r, r, width // c, c, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(cut.reshape(n, count, r * c * channels))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise InputError(f"{path} is missing; give a .npz with x and y")
    arrays = read_arrays(path, ["x", "y", *TEST])
    for name in ("x", "y"):
        if name not in arrays:
            raise InputError(
                f"{path} has no array {name!r}; save it with numpy.savez(path, x=..., y=...)"
            )
    given = [name for name in TEST if name in arrays]
    if len(given) == 1:
        (lacking,) = set(TEST) - set(given)
        raise InputError(f"{path} has {given[0]} but no {lacking}; give both or neither")
    one_class_each(arrays["x"], arrays["y"], str(path))
    if given:
        one_class_each(arrays["x_test"], arrays["y_test"], str(path), "x_test", "y_test")
    return arrays


def _images(x: NDArray[Any], name: str, source: str) -> FloatArray:
    """Grey or colour images as (N, H, W, channels)."""
    if x.ndim == 3:
        x = x[..., None]
    elif x.ndim == 4 and x.shape[3] != COLOURS and x.shape[1] == COLOURS:
        x = x.transpose(0, 2, 3, 1)
    elif x.ndim != 4 or x.shape[3] != COLOURS:
        raise InputError(
            f"{source}: {name} has shape {x.shape}; give grey images (N, H, W), or colour ones as"
            " (N, H, W, 3) or (N, 3, H, W)"
        )
    return checked_numbers(x, source, name)


def _size(images: FloatArray) -> str:
    _, height, width, channels = images.shape
    return f"{height}x{width} {'grey' if channels == GREY else 'colour'}"


def _check_shape(
    x: FloatArray,
    patch: tuple[int, int],
    wanted: tuple[int, ...] | None,
    fit: bool,
    source: str,
) -> None:
    """Refuse patches that a model does not take, unless it is made to fit them."""
    found = x.shape[1:]
    if wanted is not None and not fit and found != wanted:
        raise InputError(
            f"{source}: cut into patches of {patch[0]}x{patch[1]}, its images are {found} and the"
            f" model's input is {wanted}; give images of the size and colours it was trained on"
        )


def _known_classes(y: NDArray[Any], names: tuple[str, ...], source: str) -> NDArray[np.int64]:
    """Test labels as indices into the classes of the training part."""
    found, named = named_classes(y, source, "y_test")
    index = {name: i for i, name in enumerate(names)}
    if unknown := [name for name in named if name not in index]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(
            f"{source}: y_test holds the class {unknown[0]}{more}, which never occurs in y; give"
            " samples to learn it from, or leave it out of the test"
        )
    return np.array([index[name] for name in named], dtype=np.int64)[found]
