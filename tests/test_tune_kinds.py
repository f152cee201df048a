"""Searches on texts and images: chosen on the training part alone, the held-out one asked once."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torusformer.pipelines.tuning
from tests.commands import printed, refused, say
from torusformer.pipelines.settings import Settings

GOOD, BAD, FILL = ("good", "fine"), ("bad", "dull"), ("a", "film")
OTHER = {"up": "down", "down": "up"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.tsv, test.tsv, and wrong.tsv with the other label at every text of test.tsv."""
    folder = tmp_path_factory.mktemp("texts")
    words = (*GOOD, *BAD, *FILL)
    texts = [t for n in (1, 2, 3) for t in itertools.product(words, repeat=n)]
    texts = [t for t in texts if sum(word in GOOD + BAD for word in t) == 1]
    rows = [(" ".join(t), "up" if set(t) & set(GOOD) else "down") for t in texts]
    wrong = [(text, OTHER[label]) for text, label in rows[1::2]]
    for name, part in (("train", rows[::2]), ("test", rows[1::2]), ("wrong", wrong)):
        lines = [f"{text}\t{label}\n" for text, label in part]
        (folder / f"{name}.tsv").write_text("".join(lines))
    return folder


def search(files: Path, test: str) -> str:
    return (
        f"tune --task sentiment --preset tiny-sentences --data {files}/train.tsv "
        f"--test {files}/{test}.tsv --epochs 1 --trials 2 --fields act_bit_width,mlp_dim"
    )


@pytest.mark.slow
def test_held_out_texts_choose_nothing(files: Path, tmp_path: Path) -> None:
    report, other = (
        printed(search(files, test), "--out", str(tmp_path / test)) for test in ("test", "wrong")
    )
    assert len(report["measured"]) == 2
    assert other["measured"] == report["measured"]
    for a, b in zip(report["front"], other["front"], strict=True):
        assert a["test_accuracy"] == pytest.approx(1 - b["test_accuracy"])
    settings = Settings.load(tmp_path / "test" / report["front"][0]["config"])
    assert settings.lengths == (2, 4)

    said = refused(search(files, "wrong"), "--out", str(tmp_path / "test"))
    assert "was begun with test" in said
    again = say(search(files, "test"), "--out", str(tmp_path / "test"))
    assert f"--data {files}/train.tsv --test {files}/test.tsv --out DIR" in again.out
    assert "3 candidates" not in again.out


def test_texts_are_read_once_and_no_other_length_is_made(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, made = torusformer.pipelines.tuning.train_into, []

    def train_into(folder: Path, recipe: Any, **more: Any) -> Any:
        made.append((recipe.lengths, recipe.task.tokenizer))
        recipe = dataclasses.replace(recipe, training=recipe.training.replace(qat_epochs=0))
        return inner(folder, recipe, **more)

    monkeypatch.setattr(torusformer.pipelines.tuning, "train_into", train_into)
    printed(search(files, "test"), "--out", str(tmp_path / "tune"))
    lengths, tokenizers = zip(*made, strict=True)
    assert set(lengths) == {()}
    assert len({id(tokenizer) for tokenizer in tokenizers}) == 1


@pytest.mark.slow
def test_images_with_a_test_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (rng.integers(0, 90, (90, 8, 8)) + 80 * y[:, None, None]).astype(np.uint8)
    reports = []
    for name, y_test in (("right", y[60:]), ("wrong", (y[60:] + 1) % 3)):
        data = tmp_path / f"{name}.npz"
        np.savez(data, x=x[:60], y=y[:60], x_test=x[60:], y_test=y_test)
        line = f"tune --task images --preset tiny --data {data} --patch 4x4 --epochs 1 --trials 1"
        reports.append(printed(line, "--out", str(tmp_path / name)))
    assert reports[0]["measured"] == reports[1]["measured"]
    found = [report["front"][0]["test_accuracy"] for report in reports]
    assert found[0] != found[1]
    saved = json.loads((tmp_path / "right" / "search.json").read_text())
    assert "patch" in saved["fields"]
    assert "tokenizers" not in saved
