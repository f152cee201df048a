from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torusformer import InputError
from torusformer.models import TASKS, ModelConfig, load_task, preset_names, to_images, to_tokens
from torusformer.models.tasks import OF_TEXTS, default_preset


def test_digits_split_is_the_fixed_one() -> None:
    task = load_task("digits")
    assert (len(task.x_train), len(task.x_test)) == (1347, 450)
    assert task.input_shape == (8, 8)
    assert task.labels == tuple("0123456789")
    assert (task.x_train.min(), task.x_train.max(), task.input_scale) == (0, 16, 16)
    counts = np.bincount(task.y_test)
    assert counts.min() >= 43
    again = load_task("digits", patch=(4, 4))
    assert again.input_shape == (4, 16)
    assert np.array_equal(to_images(again.x_test, (4, 4), 8), to_images(task.x_test, (1, 8), 8))


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3, 6]))
def test_tokens_and_images_are_inverse(r: int, c: int) -> None:
    images = np.random.default_rng(0).random((3, 4, 6)).astype(np.float32)
    tokens = to_tokens(images, (r, c))
    assert tokens.shape == (3, 24 // (r * c), r * c)
    assert np.array_equal(to_images(tokens, (r, c), 4), images)


def test_patch_must_divide() -> None:
    with pytest.raises(InputError, match="3x3"):
        load_task("digits", patch=(3, 3))
    with pytest.raises(InputError, match="digits"):
        load_task("cats")


@pytest.mark.parametrize("shape", [(40, 8, 8), (40, 64), (40, 4, 16)])
def test_npz_of_any_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.arange(40 * 64).reshape(shape), y=np.arange(40) % 3)
    task = load_task("digits", path, patch=(4, 4), input_shape=(4, 16))
    assert task.input_shape == (4, 16)
    assert (len(task.x_train), len(task.x_test), task.num_classes) == (30, 10, 3)


def test_csv_with_words_as_labels(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"{i},{'cat' if i % 2 else 'dog'},{2 * i}" for i in range(12)]
    path.write_text("\n".join(["a,label,b", *rows]))
    task = load_task("digits", path, input_shape=(2, 1))
    assert task.labels == ("cat", "dog")
    assert task.x_train.shape == (9, 2, 1)
    assert np.array_equal(task.x_test[:, 1], 2 * task.x_test[:, 0])


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """A byte-order mark, quoted headings and cells, commas and line breaks within them."""
    path = tmp_path / "mine.csv"
    names = ['"cat, ""big"""', '"dog\nsmall"']
    rows = [f'"{i}", {names[i % 2]},{2 * i}' for i in range(12)]
    path.write_bytes("\r\n".join(['"a","label", "b"', *rows, ""]).encode("utf-8-sig"))
    task = load_task("digits", path, input_shape=(2, 1))
    assert task.labels == ('cat, "big"', "dog\nsmall")
    assert np.array_equal(task.x_test[:, 1], 2 * task.x_test[:, 0])


def _npz(**arrays: object) -> dict[str, np.ndarray]:
    good = {"x": np.ones((20, 64)), "y": np.arange(20) % 2}
    return {k: np.asarray(v) for k, v in {**good, **arrays}.items()}


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        (_npz(y=np.zeros(20)), "two classes"),
        (_npz(y=np.arange(19) % 2), "give each sample one class"),
        (_npz(x=np.full((20, 64), np.nan)), "NaN"),
        (_npz(x=np.ones((20, 60))), "do not fit"),
        (_npz(x=np.full((20, 64), "a")), "give numbers"),
        (_npz(x=np.array([None] * 20)), "Python objects"),
        ({"x": np.ones((20, 64))}, "no array 'y'"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], word: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=word):
        load_task("digits", tmp_path / "bad.npz", patch=(1, 8), input_shape=(8, 8))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.csv", "a,b\n1,2", "label"),
        ("a.csv", "", "label"),
        ("a.csv", "a,label\n1,2\n3", "row 3"),
        ("a.csv", "a,label\nx,2", "numbers"),
        ("a.csv", 'a,label\n1,"2', "cannot be read"),
        ("a.npz", "not a zip", "not a .npy or .npz"),
        ("a.txt", "1 2 3", ".txt"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, word: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=word):
        load_task("digits", tmp_path / name)
    with pytest.raises(InputError, match="missing"):
        load_task("digits", tmp_path / "absent.npz")


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"images", *OF_TEXTS}))  # no samples
def test_a_task_fits_its_preset(name: str) -> None:
    assert default_preset(name) in preset_names()
    model = ModelConfig.from_name(default_preset(name))
    task = load_task(name, patch=model.patch, input_shape=model.input_shape)
    assert task.input_shape == model.input_shape
    assert task.fitted(model) == model
    assert task.test_count == (task.y_test != -1).sum() > 0


def test_there_is_no_other_task() -> None:
    for ask in (load_task, default_preset):
        with pytest.raises(InputError, match="no task named 'cats'; choose one of digits"):
            ask("cats")


def test_batches_are_all_samples_once() -> None:
    task = load_task("digits")
    batches = list(task.batches(100, torch.Generator().manual_seed(0)))
    assert len(batches) == task.batch_count(100)
    assert all(batch.answers is None for batch in batches)
    x, y = (torch.cat([batch[i] for batch in batches]) for i in range(2))
    assert torch.equal(y.bincount(), torch.from_numpy(task.y_train).bincount())
    assert float(x.sum()) == float(task.x_train.sum())
    again = task.batches(100, torch.Generator().manual_seed(0))
    assert torch.equal(next(again)[0], batches[0][0])
