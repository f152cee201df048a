"""The benchmark of texts on made-up ones, and on a folder of the user's."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from benchmarks.parts import PARTS, sentences
from benchmarks.parts.sentences import SENTENCES, made_up
from benchmarks.runner import Bench, run
from benchmarks.store import Store
from benchmarks.students import Student, by_length
from torusformer import ArtifactError, InputError
from torusformer.models.texts import read_texts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def trained(store: Store) -> Path:
    """A folder with texts, and two students that are one."""
    bench = Bench(store, "sentences", True, store.folder)
    data = made_up(store.folder / "made-up")
    folder = sentences.student(bench, data, "student-best").folder
    given = store.folder / "given"
    made_up(given)
    for name in sentences.STUDENTS:
        shutil.copytree(folder, given / name)
    return given


@pytest.mark.slow
def test_quick_runs_need_no_data(store: Store, trained: Path) -> None:
    assert run((SENTENCES,), [], store, store.folder, quick=True) == []
    found = json.loads((store.folder / "results.json").read_text())["sentences"]
    assert found["bit_exact"]
    assert (found["runs"], found["preset"], found["test_count"]) == (2, "tiny-sentences", 68)
    assert found["seconds_by_length"].keys() == {"2", "4"}
    assert min(found["seconds_by_length"].values()) > 0 < found["fast_seconds"]
    assert 0 <= found["accuracy"] == found["fast_accuracy"] <= 1
    names = [row["name"] for row in found["baselines"]]
    assert names == [
        "linear model on token counts", "bag of phrases (tiny-sentences)", "float student"
    ]  # fmt: skip
    assert [row["pbs_total"] for row in found["baselines"]] == [
        0, found["plan_by_length"]["4"]["pbs_total"], None
    ]  # fmt: skip
    assert found["baselines"][0]["accuracy"] > 0.9  # one word tells
    for name in ("request_bytes", "reply_bytes", "key_bytes"):
        assert found[name] > 0
    text = (store.folder / "results.md").read_text()
    assert "| linear model on token counts | 100.0 % | 0 |" in text
    assert "make bench ONLY=sentences DATA=DIR" in text


def test_students_of_a_folder(trained: Path, store: Store) -> None:
    bench = Bench(store, "sentences", True, store.folder, trained)
    student = sentences.student(bench, trained, "student-fast")
    assert (student.preset, student.folder) == ("sentiment-fast", trained / "student-fast")
    assert student.clear.lengths == (2, 4)
    test = read_texts(trained / "dev.tsv")
    task = student.task(read_texts(trained / "train.tsv"), test)
    assert student.accuracy(test) == pytest.approx(student.float_accuracy(task), abs=0.5)
    rows = student.ids(test)
    assert [len(rows[i]) <= 2 for i in student._in_turn(rows)[:4]] == [True, False] * 2


def test_a_teachers_accuracy_is_that_on_these_texts(trained: Path, tmp_path: Path) -> None:
    student = Student("it", tmp_path, tmp_path / "programs")
    test = (trained / "dev.tsv").read_bytes()
    assert student.teacher_accuracy(test) is None
    asked = {"test": hashlib.sha256(test).hexdigest()}
    (tmp_path / "distillation.json").write_text(json.dumps(asked))
    stages = [{"stage": "teacher", "held_out": 0.9}, {"stage": "float", "held_out": 0.8}]
    (tmp_path / "report.json").write_text(json.dumps({"stages": stages}))
    assert student.teacher_accuracy(test) == 0.9
    assert student.teacher_accuracy(test + b"\n") is None


def test_what_a_folder_lacks(trained: Path, store: Store, tmp_path: Path) -> None:
    bench = Bench(store, "sentences", False, store.folder, tmp_path)
    made_up(tmp_path)
    with pytest.raises(InputError, match="holds neither student-best nor teacher"):
        sentences.student(bench, tmp_path, "student-best")
    (tmp_path / "student-best").mkdir()
    with pytest.raises(ArtifactError, match=r"holds no model\.qonnx\.onnx; give what train"):
        sentences.student(bench, tmp_path, "student-best")
    with pytest.raises(InputError, match="is measured on a folder of yours: give --data"):
        run(PARTS, ["sentences"], store, tmp_path, data=trained / "dev.tsv")


def test_a_student_that_is_missing_is_distilled(
    trained: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sentences.STUDENTS, "student-best", "tiny-sentences")
    data, inner, lines = made_up(tmp_path / "data"), sentences.main, list[list[str]]()
    shutil.copytree(trained / "student-fast", data / "teacher")

    def main(line: list[str]) -> int:
        lines.append(line)
        return inner([*line, "--texts", "20", "--epochs", "1", "--stages", "none"])

    monkeypatch.setattr(sentences, "main", main)
    bench = Bench(store, "sentences", False, store.folder, data)
    for _ in range(2):  # the second time it is all there
        student = sentences.student(bench, data, "student-best")
    assert lines[0] == lines[1]
    assert student.clear.lengths == (2, 4)
    names = [row["name"] for row in sentences.beside(student, data)]
    assert names == ["linear model on token counts", "float student", "teacher"]
    monkeypatch.setattr(sentences, "main", lambda line: 2)
    with pytest.raises(InputError, match="could not be distilled"):
        sentences.student(bench, data, "student-best")


def test_means_by_length() -> None:
    runs = [{"length": n, "seconds": s} for n, s in ((8, 1.0), (16, 4.0), (8, 2.0))]
    assert by_length(runs, "seconds") == {"8": 1.5, "16": 4.0}
