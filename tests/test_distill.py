"""`distill`: every stage kept, the same command goes on, and what comes out is a trained run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torusformer.pipelines.distilling
from tests.checkpoints import write_checkpoint
from tests.commands import printed, refused, say
from torusformer.models import ModelConfig, Transformer
from torusformer.quantize import QuantConfig, QuantTransformer

TEACHER = ModelConfig(
    tokens=16, features=4, patch=(2, 2), num_classes=3, input_scale=1.0, dim=16, mlp_dim=16
)
STAGES = ["teacher", "float", "4-bit", "3-bit", "qat"]
QUICK = ("--preset", "tiny", "--epochs", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog", "owl"], 40)
    x = (rng.random((120, 8, 8)) + np.repeat([0.0, 0.5, 1.0], 40)[:, None, None]) / 2
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, x=x, y=y)
    return path


def saved(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    Transformer(TEACHER.replace(**changes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(data: Path) -> Path:
    """Without a head, of other patches than the student."""
    return saved(data.parent / "teacher", num_classes=None, hidden=True)


def distilled(teacher: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    return printed("distill", "--teacher", str(teacher), "--data", str(data), *QUICK,
                   "--teacher-epochs", "6", "--out", str(out), *more)  # fmt: skip


@pytest.fixture(scope="module")
def whole(teacher: Path, data: Path) -> Path:
    """A run that nothing interrupted."""
    distilled(teacher, data, out := data.parent / "whole")
    return out


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """But for what another run takes another time and memory for."""
    passing = {"seconds", "peak_memory_bytes", "versions", "out"}
    stages = [{k: v for k, v in s.items() if k not in passing} for s in report["stages"]]
    return {**{k: v for k, v in report.items() if k not in passing}, "stages": stages}


def test_what_is_left_is_a_trained_run_and_its_report(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    report = json.loads((whole / "report.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == STAGES
    assert [stage["epochs"] for stage in report["stages"]] == [6, 2, 1, 1, 2]
    assert report["stages"][0]["held_out"] > 0.6  # its head was trained: of three classes
    assert report["layers"] == {"hidden": [[0, 0], [1, 2]], "attention": []}
    assert set(report["baselines"]) == {"linear", "mlp"}
    assert report["plan"]["pbs_total"] > 0
    twin = QuantTransformer.from_pretrained(whole / "qat")
    assert twin.config == QuantConfig.from_name("tiny")
    assert twin.model_config == Transformer.from_pretrained(whole / "float").config
    assert (twin.model_config.dim, twin.model_config.num_classes) == (8, 3)
    assert QuantTransformer.from_pretrained(whole / "stages" / "3-bit").config.act_bit_width == 3
    program = tmp_path / "program.onnx"
    printed("lower", str(whole / "model.qonnx.onnx"), "--out", str(program))
    ran = printed("run", "--program", str(program), "--task", "digits", "--data", str(data),
                  "--count", "30", "--fhe", "disable")  # fmt: skip
    assert ran["accuracy"] == pytest.approx(report["program_accuracy"], abs=1e-3)
    assert report["qat_accuracy"] == report["stages"][-1]["held_out"]


def test_ended_in_a_stage_the_same_command_goes_on_to_the_same_end(
    whole: Path,
    teacher: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner, out, begun = torusformer.pipelines.distilling.train, tmp_path / "out", list[str]()
    stage = "3-bit"

    def train(*args: Any, label: str, **more: Any) -> Any:
        begun.append(label)
        history = inner(*args, label=label, **more)
        if label == stage and begun.count(stage) == 1:  # trained, and not yet written
            raise KeyboardInterrupt
        return history

    monkeypatch.setattr(torusformer.pipelines.distilling, "train", train)
    said = say("distill", "--teacher", str(teacher), "--data", str(data), *QUICK,
               "--teacher-epochs", "6", "--out", str(out))  # fmt: skip
    assert said.code == 130
    assert "keeps the stages that are done, the same command goes on" in said.err
    assert not (out / "report.json").exists()
    done = STAGES[: STAGES.index(stage)]
    assert sorted(p.name for p in (out / "stages").iterdir()) == sorted(done)
    again = distilled(teacher, data, out)
    assert begun == [*done, stage, *STAGES[STAGES.index(stage) :]]
    assert figures(again) == figures(json.loads((whole / "report.json").read_text()))
    for name in ("float", "qat"):
        files = [(f / name / "model.safetensors").read_bytes() for f in (out, whole)]
        assert files[0] == files[1]


def test_what_is_whole_is_not_done_again_nor_with_other_wishes(
    whole: Path, teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    monkeypatch.delattr(torusformer.pipelines.distilling, "train")
    report = distilled(teacher, data, out)
    assert figures(report) == figures(json.loads((whole / "report.json").read_text()))
    command = ("distill", "--teacher", str(teacher), "--data", str(data), "--out", str(out))
    more = ("--teacher-epochs", "6")
    assert "begun with training.float_epochs 2, now it is 3" in refused(
        *command, *more, "--preset", "tiny", "--epochs", "3"
    )
    assert "begun with stages [4, 3], now it is []" in refused(
        *command, *more, *QUICK, "--stages", "none"
    )
    (out / "stages" / "float" / "stage.json").write_text("{}")
    said = say(*command, *more, *QUICK)
    assert said.code == 2
    assert "is damaged; remove it, and the same command does it again" in said.err


def test_a_teacher_of_the_same_classes_is_asked_as_it_is(data: Path, tmp_path: Path) -> None:
    """Of the same tokens: attention counts too. A table for people, no step on the way."""
    same = ModelConfig.from_name("tiny").replace(num_classes=3, dim=12, heads=2, pooling="mean")
    Transformer(same).save_pretrained(tmp_path / "run" / "float")  # a run's folder does as well
    said = say("distill", "--teacher", str(tmp_path / "run"), "--data", str(data), *QUICK,
               "--stages", "none", "--hidden", "0", "--out", str(tmp_path / "out"))  # fmt: skip
    assert said.code == 0, said.err
    assert not (tmp_path / "out" / "stages" / "teacher" / "model.safetensors").exists()
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["teacher", "float", "qat", "program",
                                                         "beside"]  # fmt: skip
    assert "float, as it is" in lines[1]
    assert "attention of layers 1-1" in said.out
    assert "hidden" not in said.out


@pytest.mark.slow
def test_a_model_that_writes_learns_of_one_that_writes(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(a + b + c for a in "ab" for b in "aeiou" for c in "lmn"))
    preset = ModelConfig.from_name("tiny-words")
    teacher = preset.replace(vocabulary=10, dim=12, heads=2, layers=2, head_dim=None)
    Transformer(teacher).save_pretrained(tmp_path / "teacher")
    report = printed("distill", "--task", "words", "--data", str(words), "--preset", "tiny-words",
                     "--epochs", "1", "--stages", "4", "--teacher", str(tmp_path / "teacher"),
                     "--out", str(tmp_path / "out"))  # fmt: skip
    assert report["measure"] == "nats"
    assert [stage["stage"] for stage in report["stages"]] == ["teacher", "float", "4-bit", "qat"]
    assert 0 < report["qat_nll"] < 10
    assert set(report["baselines"]) == {"linear"}
    assert (tmp_path / "out" / "decoder").is_dir()


def test_what_cannot_teach_is_refused(teacher: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    vit = saved(tmp_path / "vit", tokens=5, features=48, patch=None, input_scale=None)
    (vit / "import.json").write_text('{"family": "vit"}')
    named = saved(tmp_path / "named")
    (named / "import.json").write_text('{"labels": ["owl", "cat", "dog"]}')
    cases = {
        tmp_path / "missing": "holds no float model",
        tmp_path / "empty": "holds no float model",
        write_checkpoint(tmp_path / "gpt2"): "is a checkpoint from elsewhere; run `torusformer",
        saved(tmp_path / "seven", num_classes=7): "tells 7 classes apart and",
        saved(tmp_path / "wide", tokens=9, features=16, patch=(4, 4)): "reads 144 numbers a sample",
        vit: "import it with --raw-pixels",
        named: "in another order",
    }
    for folder, cause in cases.items():
        said = refused("distill", "--teacher", str(folder), "--data", str(data), *QUICK,
                       "--out", str(out))  # fmt: skip
        assert cause in said, said
    for more, cause in (
        (("--data", str(tmp_path / "no.npz")), "no.npz is missing"),
        (("--stages", "3,4"), "no falling bits"),
        (("--hidden", "-1"), "is not a weight"),
        (("--task", "words"), "words are token ids"),
    ):
        given = ("distill", "--teacher", str(teacher), *QUICK, "--out", str(out))
        assert cause in refused(*given, *more), more
    assert not out.exists()
