"""Everything or nothing, and never over what somebody else put there."""

import json
from pathlib import Path

import pytest

from torusformer import ArtifactError
from torusformer.folders import output_file, output_folder
from torusformer.versions import check_versions, installed_versions, read_versions


def write(folder: Path, name: str, text: str) -> None:
    with output_folder(folder, "run") as new:
        (new / name).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_new_folder_is_filled_and_marked(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", "x", "1")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == ["versions.json", "x"]
    assert read_versions(tmp_path / "a" / "b", "run") == installed_versions()


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    write(tmp_path, "x", "1")
    assert names(tmp_path) == ["versions.json", "x"]


def test_our_own_run_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "run", "old", "1")
    write(tmp_path / "run", "new", "2")
    assert names(tmp_path / "run") == ["new", "versions.json"]
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("marker", [None, "not json", '["list"]', '{"artefact": "deployment"}'])
def test_a_foreign_folder_is_refused(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    if marker is not None:
        (tmp_path / "run" / "versions.json").write_text(marker)
    before = names(tmp_path / "run")
    with pytest.raises(ArtifactError, match="already holds something"):
        write(tmp_path / "run", "x", "1")
    assert names(tmp_path / "run") == before
    assert names(tmp_path) == ["run"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ArtifactError, match="not a folder"):
        write(tmp_path / "run", "x", "1")
    with pytest.raises(ArtifactError, match="cannot be made"):
        write(tmp_path / "run" / "below", "x", "1")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_failure_leaves_the_earlier_run(tmp_path: Path) -> None:
    write(tmp_path / "run", "x", "1")
    with pytest.raises(RuntimeError), output_folder(tmp_path / "run", "run") as new:
        (new / "x").write_text("half")
        raise RuntimeError
    assert (tmp_path / "run" / "x").read_text() == "1"
    assert names(tmp_path) == ["run"]


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError), output_folder(tmp_path / "run", "run"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert names(tmp_path / "run") == ["thesis.txt"]


def test_a_file_is_replaced_only_if_ours(tmp_path: Path) -> None:
    target = tmp_path / "program.onnx"

    def ours(path: Path) -> bool:
        return path.read_text().startswith("ours")

    for text in ("ours 1", "ours 2"):
        with output_file(target, ours) as new:
            new.write_text(text)
        assert target.read_text() == text
    target.write_text("theirs")
    with pytest.raises(ArtifactError, match="did not write"), output_file(target, ours):
        pass
    with pytest.raises(ArtifactError, match="is a folder"), output_file(tmp_path, ours):
        pass
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["program.onnx"]


def test_versions_that_differ_are_named_with_the_cure() -> None:
    recorded = {"numpy": "0.1", "onnx": installed_versions()["onnx"], "torch": "0.2"}
    check_versions(recorded, ["onnx"], "here")
    with pytest.raises(ArtifactError, match=r"deployment: made with numpy 0\.1, but numpy 1") as e:
        check_versions(recorded, ["numpy", "onnx"], "deployment")
    assert "make it again" in str(e.value)


def test_versions_of_another_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no versions"):
        read_versions(tmp_path, "run")
    write(tmp_path / "run", "x", "1")
    with pytest.raises(ArtifactError, match="holds a run, not a deployment"):
        read_versions(tmp_path / "run", "deployment")
    path = tmp_path / "run" / "versions.json"
    path.write_text(json.dumps({"artefact": "run"}))
    with pytest.raises(ArtifactError, match="truncated or not ours"):
        read_versions(tmp_path / "run", "run")
