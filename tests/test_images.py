"""The task `images`: what its files hold, how they are cut, and every command that reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import printed, refused, say
from tests.settings import TINIEST
from torusformer import InputError
from torusformer.models import ModelConfig, Task, load_task
from torusformer.models.images import MOST_PATCHES, to_patches
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.training import Recipe
from torusformer.pipelines.tuning import validation_split
from torusformer.quantize.augment import Augment


def arrays(count: int = 24, shape: tuple[int, ...] = (4, 6), **more: Any) -> dict[str, Any]:
    """Images of three classes, each brighter than the one before; `more` replaces or adds."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = rng.random((count, *shape)) + y.reshape(-1, *[1] * len(shape))
    found = {"x": (40 * x).astype(np.uint8), "y": y, **more}
    return {name: value for name, value in found.items() if value is not None}


def file(folder: Path, **found: Any) -> Path:
    path = folder / "images.npz"
    np.savez(path, **found)
    return path


def with_test(**more: Any) -> dict[str, Any]:
    test = arrays(6)
    return arrays(**{"x_test": test["x"], "y_test": test["y"], **more})


def task_of(path: Path, patch: tuple[int, int] = (2, 3)) -> Task:
    return load_task("images", path, patch=patch)


def test_pixels_of_a_patch_stand_row_by_row_and_colours_innermost() -> None:
    grey = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1)
    tokens = to_patches(grey, (2, 3))
    assert tokens.shape == (1, 4, 6)
    assert tokens[0, 1].tolist() == [3, 4, 5, 9, 10, 11]
    colour = np.stack([grey[..., 0], grey[..., 0] + 100, grey[..., 0] + 200], axis=-1)
    assert to_patches(colour, (2, 3))[0, 1, :6].tolist() == [3, 103, 203, 4, 104, 204]


def test_without_a_test_part_a_quarter_is_held_out(tmp_path: Path) -> None:
    task = task_of(file(tmp_path, **arrays()))
    assert (task.x_train.shape, task.x_test.shape) == ((18, 4, 6), (6, 4, 6))
    assert np.bincount(task.y_test).tolist() == [2, 2, 2]
    assert (task.patch, task.image, task.labels) == ((2, 3), (4, 6), ("0", "1", "2"))
    again = task_of(tmp_path / "images.npz")
    assert np.array_equal(task.x_test, again.x_test)


def test_a_test_part_is_held_out_whole_and_in_order(tmp_path: Path) -> None:
    given = with_test(y_test=np.array([2, 2, 0, 0, 2, 2]))
    task = task_of(file(tmp_path, **given))
    assert len(task.x_train) == 24
    assert task.y_test.tolist() == [2, 2, 0, 0, 2, 2]  # class 1 is not among them, and keeps its 1
    assert np.array_equal(task.x_test, to_patches(given["x_test"][..., None], (2, 3)))


def test_a_search_chooses_on_the_training_part(tmp_path: Path) -> None:
    task = task_of(file(tmp_path, **with_test()))
    chosen = validation_split(task)
    assert len(chosen.x_train) + len(chosen.x_test) == 24
    rows = {row.tobytes() for row in task.x_train}
    assert all(row.tobytes() in rows for row in chosen.x_test)


def test_colour_may_stand_first_or_last(tmp_path: Path) -> None:
    last = task_of(file(tmp_path, **arrays(shape=(4, 6, 3))))
    first = arrays(shape=(4, 6, 3))
    first["x"] = first["x"].transpose(0, 3, 1, 2)
    other = task_of(file(tmp_path, **first))
    assert last.input_shape == (4, 18)
    assert np.array_equal(last.x_train, other.x_train)
    assert ModelConfig(tokens=4, features=18, num_classes=3, patch=(2, 3)).patch == (2, 3)


def test_labels_of_text_and_of_numbers(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "owl"])
    y = names[np.arange(24) % 3]
    task = task_of(file(tmp_path, **with_test(y=y, y_test=names[[2, 2, 1, 0, 0, 1]])))
    assert task.labels == ("cat", "dog", "owl")
    assert task.y_test.tolist() == [2, 2, 1, 0, 0, 1]


NAN = np.full((24, 4, 6), np.nan)
BAD: list[tuple[Callable[..., dict[str, Any]], dict[str, Any], str]] = [
    (arrays, {"x": np.ones((24, 24))}, "give grey images"),
    (arrays, {"x": np.ones((24, 4, 6, 2))}, "give grey images"),
    (arrays, {"x": np.ones((24, 1, 4, 6, 3))}, "give grey images"),
    (arrays, {"x": np.array([None] * 24)}, "Python objects"),
    (arrays, {"x": np.full((24, 4, 6), "a")}, "x is <U1; give numbers"),
    (arrays, {"x": NAN}, "x holds NaN"),
    (arrays, {"x": np.full((24, 4, 6), 1e300)}, "give it in another unit"),
    (arrays, {"y": np.arange(23)}, "give each sample one class"),
    (arrays, {"y": np.ones((24, 1))}, "give each sample one class"),
    (arrays, {"y": np.full(24, 0.5)}, "y holds 0.5"),
    (arrays, {"y": np.zeros(24)}, "two classes"),
    (arrays, {"x": None}, "no array 'x'"),
    (arrays, {"y": None}, "no array 'y'"),
    (arrays, {"x": np.ones((24, 4, 7))}, "cannot be cut into patches of 2x3; give a --patch"),
    (arrays, {"x": np.ones((24, 128, 192), np.uint8)}, f"limit is {MOST_PATCHES}"),
    (with_test, {"x_test": None}, "has y_test but no x_test; give both or neither"),
    (with_test, {"y_test": None}, "has x_test but no y_test; give both or neither"),
    (with_test, {"x_test": np.ones((6, 4, 9))}, "4x6 grey and those of x_test 4x9 grey"),
    (with_test, {"x_test": np.ones((6, 4, 6, 3))}, "4x6 grey and those of x_test 4x6 colour"),
    (with_test, {"x_test": NAN[:6]}, "x_test holds NaN"),
    (with_test, {"y_test": np.arange(5)}, "y_test has shape"),
    (with_test, {"y_test": np.arange(6)}, "y_test holds the class 3 and 2 more, which never"),
    (with_test, {"y_test": np.full(6, np.nan)}, "y_test holds NaN"),
    (with_test, {"y": np.zeros(24), "y_test": np.zeros(6)}, "y holds one class"),
]


@pytest.mark.parametrize(("make", "changes", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_files_are_refused_in_one_sentence(
    tmp_path: Path, make: Callable[..., dict[str, Any]], changes: dict[str, Any], words: str
) -> None:
    path = file(tmp_path, **make(**changes))
    new = tmp_path / "new"
    said = refused(f"train --task images --patch 2x3 --data {path} --out {new}")
    assert words in said
    assert not new.exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("", "images has no samples of its own; give --data"),
        ("--data missing.npz", "missing.npz is missing; give a .npz with x and y"),
        ("--data FILE --shape 4x6", "images are cut by --patch; leave it out"),
        ("--data FILE --preset words", "give a model of features"),
        ("--data FILE --preset tiny-table --patch 3x3", "no preset named"),
        ("--data FILE --patch 3x3", "cannot be cut into patches of 3x3"),
        ("--data FILE --patch 4", "'4' is not ROWSxCOLUMNS, say 4x4"),
        ("--data FILE --patch 0x4", "'0x4' is not ROWSxCOLUMNS"),
    ],
)
def test_the_cure_names_the_flag(tmp_path: Path, asked: str, words: str) -> None:
    path = file(tmp_path, **arrays())
    line = f"train --task images {asked} --out {tmp_path / 'new'}"
    assert words in refused(line.replace("FILE", str(path)))


def test_a_patch_is_for_images_alone(tmp_path: Path) -> None:
    said = refused(f"train --task digits --patch 2x2 --out {tmp_path / 'new'}")
    assert "--patch cuts images, and the task is digits; leave it out" in said


def recipe(path: Path, patch: tuple[int, int] | None, settings: Settings = TINIEST) -> Recipe:
    return Recipe.from_settings("images", settings, data=path, patch=patch)


def test_the_model_fits_the_patches(tmp_path: Path) -> None:
    path = file(tmp_path, **arrays(shape=(8, 8, 3)))
    made = recipe(path, (4, 4))
    assert (made.model.tokens, made.model.features, made.model.patch) == (4, 48, (4, 4))
    assert (made.model.num_classes, made.model.input_scale) == (3, made.task.x_train.max())
    # As many tokens of as many numbers, cut another way.
    other = recipe(path, (8, 2), made.shaped(TINIEST))
    assert other.model.input_shape == made.model.input_shape
    assert other.model.patch == other.shaped(made.shaped(TINIEST)).model.patch == (8, 2)
    assert json.loads(other.about()["patch"]) == [8, 2]


def moved(
    x: np.ndarray, image: tuple[int, int], strength: float, elastic: float = 0.0
) -> np.ndarray:
    """Images (N, H, W, channels) after one draw, together again; turned by nothing."""
    patch = (2, 3)
    generator = torch.Generator().manual_seed(0)
    tokens = to_patches(x, patch)
    augment = Augment(patch, tokens.shape[1:], strength, generator, image, elastic)
    (height, width), (r, c), n = image, patch, len(x)
    cut = augment(torch.from_numpy(tokens)).numpy()
    cut = cut.reshape(n, height // r, width // c, r, c, -1).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(n, height, width, -1)


def test_images_of_any_sides_and_colours_move_a_little() -> None:
    rng = np.random.default_rng(0)
    grey = rng.random((5, 4, 6, 1)).astype(np.float32)
    colour = np.concatenate([grey, 2 * grey, 3 * grey], axis=-1)
    same = moved(colour, (4, 6), 1e-6)
    assert np.abs(same - colour).max() < 1e-4
    found = moved(colour, (4, 6), 1.0)
    assert np.abs(found - colour).max() > 0.05
    assert np.allclose(found, moved(grey, (4, 6), 1.0) * [1, 2, 3], atol=1e-5)  # as one image


def test_a_dot_moves_by_a_pixel_at_most() -> None:
    dots = np.zeros((200, 8, 12, 1), np.float32)
    dots[:, 4, 6] = 1.0
    found = moved(dots, (8, 12), 1.0)[..., 0]
    weight = found.sum((1, 2))
    rows = (found.sum(2) * np.arange(8)).sum(1) / weight - 4
    columns = (found.sum(1) * np.arange(12)).sum(1) / weight - 6
    for shift in (rows, columns):
        assert 0.5 < np.abs(shift).max() < 1.5
        assert shift.min() < 0 < shift.max()


def test_parts_of_an_image_move_on_their_own() -> None:
    dots = np.zeros((200, 8, 12, 1), np.float32)
    dots[:, 2, 2] = dots[:, 5, 9] = 1.0
    found = moved(dots, (8, 12), 0.0, elastic=0.5)[..., 0]
    halves = found[:, :, :6], found[:, :, 6:]
    left, right = ((h.sum(2) * np.arange(8)).sum(1) / h.sum((1, 2)) for h in halves)
    down = np.stack([left - 2, right - 5])
    assert np.all((down.std(1) > 0.15) & (down.std(1) < 0.6))  # less than at a node, between them
    assert abs(np.corrcoef(down)[0, 1]) < 0.5
    assert np.array_equal(moved(dots, (8, 12), 0.0), dots)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo of tiny images, with the file beside it."""
    folder = tmp_path_factory.mktemp("images")
    path = file(folder, **with_test())
    TINIEST.save(folder / "tiniest.json")
    line = f"demo images --data {path} --config {folder}/tiniest.json --patch 2x3 --images 1"
    printed(f"{line} --epochs 1 --out {folder / 'run'}")
    return folder


def test_demo_answers_the_test_part(trained: Path) -> None:
    report = json.loads((trained / "run" / "report.json").read_text())
    assert (report["task"], report["test_count"]) == ("images", 6)
    assert report["source"] == "images.npz"
    rows = {row["name"]: row["pbs_total"] for row in report["baselines"]}
    assert rows == {"linear": 0, "mlp": report["plan"]["pbs_total"]}
    assert report["agreement"] == 1.0


@pytest.mark.parametrize("what", ["--program run/program.onnx", "--deployment run/deployment"])
def test_run_cuts_images_as_the_program_says(
    trained: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    count = 6 if "program" in what else 1
    found = printed(f"run {what} --task images --data images.npz --count {count}")
    assert found["count"] == count
    if count == 6:
        report = json.loads(Path("run/report.json").read_text())
        assert found["accuracy"] == pytest.approx(report["program_accuracy"])


def test_run_refuses_images_of_another_size(trained: Path, tmp_path: Path) -> None:
    path = file(tmp_path, **arrays(shape=(4, 9)))
    program = trained / "run" / "program.onnx"
    said = refused(f"run --program {program} --task images --data {path}")
    assert "cut into patches of 2x3, its images are (6, 6) and the model's input is (4, 6)" in said
    assert "give --data" in refused(f"run --program {program} --task images")


def test_how_images_are_cut_is_said_where_nobody_asked(tmp_path: Path) -> None:
    path = file(tmp_path, **arrays(shape=(8, 12)))
    TINIEST.save(tmp_path / "tiniest.json")
    line = f"train --task images --config {tmp_path}/tiniest.json --epochs 1 --data {path}"
    said = say(f"{line} --out {tmp_path / 'new'}")
    assert said.code == 0
    assert "images of 8x12 are cut into 6 patches of 4x4; --patch says otherwise" in said.err


def test_tune_asks_the_test_part_at_its_end(tmp_path: Path) -> None:
    path = file(tmp_path, **with_test())
    line = f"tune --task images --preset tiny --patch 2x3 --data {path} --epochs 1 --trials 1"
    report = printed(f"{line} --fields mlp_dim --min-accuracy 0.01 --out {tmp_path / 'tune'}")
    (row,) = report["front"]
    assert 0 <= row["test_accuracy"] <= 1
    kept = Settings.load(tmp_path / "tune" / row["config"])
    assert (kept.model.patch, kept.model.input_shape) == ((2, 3), (4, 6))


def test_the_preset_reads_sixteen_by_sixteen(tmp_path: Path) -> None:
    model = ModelConfig.from_name("usps")
    path = file(tmp_path, **arrays(40, (16, 16), y=np.arange(40) % 10))
    made = Recipe.from_name("images", "usps", data=path)
    assert made.model.input_shape == model.input_shape
    assert made.training.augment > 0


def test_a_recipe_without_a_patch_is_refused(tmp_path: Path) -> None:
    bare = Settings("bare", TINIEST.model.replace(patch=None), TINIEST.quant, TINIEST.training)
    with pytest.raises(InputError, match="is not said; give --patch"):
        recipe(file(tmp_path, **arrays()), None, bare)
