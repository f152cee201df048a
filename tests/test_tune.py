"""The search: it goes on where it was ended, chooses without the test set, says what it found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torusformer.pipelines.tuning
from tests.commands import printed, say
from torusformer import ArtifactError
from torusformer.models import load_task
from torusformer.pipelines.search_folder import JOURNAL, open_study, search_folder
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.tuning import validation_split

FIELDS = "act_bit_width,residual_bit_width,mlp_dim"
MIN = ("--min-accuracy", "0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog", "owl"], 40)
    x = rng.random((120, 8, 8)) + np.repeat([0.0, 0.5, 1.0], 40)[:, None, None]
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture(scope="module")
def tune(data: Path) -> Callable[..., tuple[int, Any, str]]:
    """Run the command; its exit code, its JSON and what it said."""

    def run(out: Path, *more: str, trials: int) -> tuple[int, Any, str]:
        argv = ["tune", "--preset", "tiny", "--data", str(data), "--epochs", "1", "--json"]
        argv += ["--fields", FIELDS, "--trials", str(trials), "--out", str(out), *more]
        code, said, complaint = say(*argv)
        return code, json.loads(said) if said else None, complaint

    return run


@pytest.fixture(scope="module")
def searched(tune: Callable[..., Any], data: Path) -> Path:
    """A whole search of two candidates."""
    folder = data.parent / "searched"
    code, report, _ = tune(folder, *MIN, trials=2)
    assert code == 0
    assert report == json.loads((folder / "front.json").read_text())
    return folder


def endings(monkeypatch: pytest.MonkeyPatch, end_at: int) -> list[int]:
    """End the search at the training with this number; grows by one a training."""
    inner, calls = torusformer.pipelines.tuning.train_into, []

    def train_into(folder: Path, recipe: Any, **more: Any) -> Any:
        if recipe.training.qat_epochs:
            calls.append(len(calls))
            if len(calls) == end_at:
                raise KeyboardInterrupt
        return inner(folder, recipe, **more)

    monkeypatch.setattr(torusformer.pipelines.tuning, "train_into", train_into)
    return calls


@pytest.mark.slow
def test_an_ended_search_goes_on_and_finds_the_same(
    tune: Callable[..., Any], searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "ended", json.loads((searched / "front.json").read_text())
    with monkeypatch.context() as patch:
        endings(patch, end_at=2)
        code, nothing, said = tune(out, *MIN, trials=2)
    assert (code, nothing) == (130, None)
    assert f"{out} keeps what is measured" in said

    # A process that is killed leaves worse: half a line, half a program, and Optuna's lock.
    half = out / "programs" / "777.onnx"
    half.write_bytes(b"half")
    journal = out / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    journal.with_name(JOURNAL + ".lock").symlink_to(journal)

    with monkeypatch.context() as patch:
        calls = endings(patch, end_at=-1)
        code, resumed, _ = tune(out, *MIN, trials=2)
    assert code == 0
    assert not half.exists()
    assert len(calls) == 1  # the first is not trained again

    def found(report: Any) -> list[Any]:
        return [[m[k] for k in ("accuracy", "seconds", "changes")] for m in report["measured"]]

    assert found(resumed) == found(whole)
    assert len({m["changes"] for m in whole["measured"]}) == 2

    with monkeypatch.context() as patch:
        assert tune(out, *MIN, trials=1)[1] == resumed  # enough is measured
        endings(patch, end_at=1)
        assert tune(out, *MIN, trials=3)[0] == 130  # one more would be trained


def test_what_a_search_leaves(searched: Path, data: Path, tmp_path: Path) -> None:
    report = json.loads((searched / "front.json").read_text())
    assert (searched / "front.png").read_bytes().startswith(b"\x89PNG")
    rows = report["front"]
    assert sorted(p.name for p in (searched / "configs").iterdir()) == sorted(
        Path(row["config"]).name for row in rows
    )
    assert report["best"] == rows[0]["candidate"]  # the cheapest of those above 10 %
    costs = [(row["predicted_seconds"], row["validation_accuracy"]) for row in rows]
    assert costs == sorted(costs)

    config = searched / rows[0]["config"]
    settings = Settings.load(config)
    assert (settings.training.qat_epochs, settings.model.tokens) == (1, 4)
    argv = ["train", "--config", str(config), "--data", str(data), "--out", str(tmp_path / "t")]
    assert printed(*argv)["preset"] == settings.name
    trained = json.loads((tmp_path / "t" / "qat" / "config.json").read_text())
    assert settings.quant.to_dict() in trained.values()


def test_what_is_too_dear_is_not_trained(
    tune: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = endings(monkeypatch, end_at=1)
    monkeypatch.setattr(torusformer.pipelines.tuning, "DRAWS", 8)
    code, report, _ = tune(
        tmp_path / "tune", "--max-seconds", "0.01", "--fields", "act_bit_width", trials=1
    )
    assert (code, calls) == (0, [])
    assert (report["front"], report["measured"], report["best"]) == ([], [], None)
    reasons = [skipped["why"] for skipped in report["skipped"]]
    assert len(reasons) == 8
    assert "s before training, 0.01 s is the most" in reasons[0]
    assert any("again" in reason for reason in reasons)


def test_another_search_is_refused(
    tune: Callable[..., Any], searched: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(searched, tmp_path / "tune")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for more, word in (
        (("--max-seconds", "5"), "was begun with max_seconds None, now it is 5.0"),
        (("--seed", "1"), "was begun with presets"),
    ):
        code, _, said = tune(out, *MIN, *more, trials=2)
        assert code == 2
        assert word in said
    (out / JOURNAL).write_bytes(b"{}\n" + before[out / JOURNAL])
    code, _, said = tune(out, *MIN, trials=2)
    assert (code, said.count("\n")) == (2, 1)
    assert "is damaged" in said
    (out / JOURNAL).write_bytes(before[out / JOURNAL])
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_one_search_at_a_time(tmp_path: Path) -> None:
    with (
        search_folder(tmp_path / "tune", {"seed": 0}),
        pytest.raises(ArtifactError, match="another tune is at work"),
        search_folder(tmp_path / "tune", {"seed": 0}),
    ):
        raise AssertionError("not reached")
    with search_folder(tmp_path / "tune", {"seed": 0}) as folder:
        assert open_study(folder).get_trials() == []


def test_validation_takes_nothing_from_the_held_out_samples() -> None:
    task = load_task("digits", patch=(4, 4), input_shape=(4, 16))
    split = validation_split(task)
    assert len(split.x_train) + len(split.x_test) == len(task.x_train)
    assert set(np.unique(split.y_test)) == set(range(10))
    assert len(split.x_test) == pytest.approx(0.2 * len(task.x_train), abs=5)
    parts = np.concatenate([split.x_train, split.x_test]).reshape(len(task.x_train), -1)
    whole = task.x_train.reshape(len(task.x_train), -1)
    assert sorted(map(bytes, parts)) == sorted(map(bytes, whole))
