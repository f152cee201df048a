"""Every subcommand, from what it prints to the files it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.commands import printed, say
from tests.programs import classifier
from tests.settings import TINIEST
from torusformer.fhe_compile import load_program, save_program
from torusformer.models import Transformer
from torusformer.pipelines.cli import COMMANDS, main
from torusformer.quantize import QuantTransformer

NAMES = (
    "train",
    "import",
    "distill",
    "check",
    "lower",
    "calibrate",
    "plan",
    "compile",
    "run",
    "generate",
    "demo",
    "tune",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "program.onnx"
    save_program(classifier(), path)
    return path


@pytest.fixture(scope="module")
def deployment(small: Path) -> Path:
    folder = small.parent / "deployment"
    assert main(["compile", str(small), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    assert main(["train", "--preset", "tiny", "--epochs", "1", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def program(training: Path) -> Path:
    path = training.parent / "program.onnx"
    assert main(["lower", str(training / "model.qonnx.onnx"), "--out", str(path)]) == 0
    return path


def test_every_command_is_there() -> None:
    assert len(COMMANDS) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_an_example(name: str) -> None:
    said = say(name, "--help")
    assert said.code == 0
    text = " ".join(said.out.split())
    assert f"example: torusformer {name} " in text
    assert "--json" in text


def test_version() -> None:
    said = say("--version")
    assert said.code == 0
    assert said.out.startswith("torusformer 0.")


def test_train_leaves_models_and_graph(training: Path) -> None:
    names = {"float", "model.qonnx.onnx", "qat", "versions.json"}
    assert {p.name for p in training.iterdir()} == names
    assert Transformer.from_pretrained(training / "float").config.tokens == 4
    assert QuantTransformer.from_pretrained(training / "qat").model_config.tokens == 4


def test_train_again_replaces(training: Path) -> None:
    argv = ["train", "--preset", "tiny", "--epochs", "1", "--out", str(training)]
    before = (training / "model.qonnx.onnx").read_bytes()
    data = printed(*argv)
    assert data["test_count"] == 450
    assert 0 <= data["qat_accuracy"] <= 1
    assert (training / "model.qonnx.onnx").read_bytes() == before  # the same seed, the same model


def test_train_on_your_own_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog", "owl"], 40)
    x = rng.random((120, 8, 8)) + np.repeat([0.0, 0.5, 1.0], 40)[:, None, None]
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    out, own = tmp_path / "run", ["--data", str(tmp_path / "mine.npz")]
    argv = ["train", "--preset", "tiny", "--epochs", "1", "--out", str(out), *own]
    assert printed(*argv)["test_count"] == 30
    lowered = ["lower", str(out / "model.qonnx.onnx"), "--out", str(tmp_path / "p.onnx")]
    assert main(lowered) == 0
    argv = ["run", "--program", str(tmp_path / "p.onnx"), "--task", "digits", "--count", "3", *own]
    names = {result["prediction"] for result in printed(*argv)["results"]}
    assert names <= {"cat", "dog", "owl"}


def test_lower_keeps_what_the_graph_says(program: Path, training: Path) -> None:
    lowered = load_program(program)
    assert lowered.metadata["task"] == "digits"
    assert json.loads(lowered.metadata["labels"]) == [str(i) for i in range(10)]
    argv = ["lower", str(training / "model.qonnx.onnx"), "--out", str(program)]
    before = program.read_bytes()
    assert main(argv) == 0  # our own program may be replaced
    assert program.read_bytes() == before


def test_onnx_runtime_answers_as_the_command_does(program: Path) -> None:
    data = printed("run", "--program", str(program), "--task", "digits", "--count", "5")
    assert data["fhe"] == "disable"
    assert data["count"] == 5
    assert 0 <= data["accuracy"] <= 1

    lowered, path = load_program(program), program.parent / "q_x.npy"
    rng = np.random.default_rng(0)
    (port,) = lowered.inputs
    q_x = rng.integers(port.lo, port.hi + 1, (5, *port.shape))
    np.save(path, q_x)
    argv = ["run", "--program", str(program), "--input", str(path), "--integers"]
    results = printed(*argv)["results"]
    session = onnxruntime.InferenceSession(str(program))
    for row, result in zip(q_x, results, strict=True):
        (expected,) = session.run(None, {port.name: row})
        assert result["outputs"][lowered.outputs[0].name]["integers"] == expected.tolist()


def test_plan_counts(small: Path) -> None:
    data = printed("plan", str(small))
    assert data["pbs_total"] == 2
    assert data["pbs_by_bit_width"] == {"3": 2}
    assert data["max_bit_width"] == 3
    assert {"pbs_by_layer", "predicted_seconds", "key_bytes", "peak_memory_bytes"} <= set(data)
    assert "act" in say("plan", str(small)).out


def test_compile_leaves_a_deployment(deployment: Path) -> None:
    names = {"client.zip", "server.zip", "interface.json", "versions.json"}
    assert {p.name for p in deployment.iterdir()} == names


@pytest.mark.parametrize("mode", ["disable", "simulate", "execute", "deployment"])
def test_every_way_of_running_gives_the_same(
    mode: str,
    small: Path,
    deployment: Path,
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.5, 3.5], [1.6, -9.0]]))  # integers 1 7, 3 0
    argv = ["run", "--input", str(tmp_path / "x.npy")]
    if mode == "deployment":
        argv += ["--deployment", str(deployment)]
    else:
        argv += ["--program", str(small), "--fhe", mode]
    data = printed(*argv)
    assert [r["outputs"]["logits"]["integers"] for r in data["results"]] == [
        [[0, 0, 3]],
        [[1, -1, 2]],
    ]
    assert [r["prediction"] for r in data["results"]] == ["c", "c"]
    if mode in ("simulate", "execute"):
        assert all(r["bit_exact"] for r in data["results"])


def test_a_run_is_a_table_to_read(small: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.5, 3.5]]))
    said = say("run", "--program", str(small), "--input", str(tmp_path / "x.npy"))
    assert said.out.splitlines()[0].split()[:3] == ["sample", "prediction", "seconds"]


@pytest.mark.slow
def test_demo_goes_all_the_way(tmp_path: Path) -> None:
    out = tmp_path / "digits"
    TINIEST.save(tmp_path / "tiniest.json")
    argv = ["demo", "digits", "--config", str(tmp_path / "tiniest.json"), "--images", "1"]
    report = printed(*argv, "--out", str(out))
    assert report == json.loads((out / "report.json").read_text())
    assert {p.name for p in out.iterdir()} == {
        "float",
        "qat",
        "model.qonnx.onnx",
        "program.onnx",
        "deployment",
        "report.json",
        "versions.json",
    }
    assert report["task"] == "digits"
    assert report["preset"] == "tiniest"
    assert report["test_count"] == 450
    assert report["agreement"] >= 0.995
    assert report["p_error"] == report["plan"]["p_error"] == 2**-64
    assert report["execute"]["count"] == 1
    assert report["execute"]["bit_exact"] is True
    assert report["execute"]["seconds"] > 0
    assert {
        "pbs_total",
        "pbs_by_layer",
        "pbs_by_bit_width",
        "max_bit_width",
        "predicted_seconds",
        "key_bytes",
        "peak_memory_bytes",
    } <= set(report["plan"])


def test_only_the_result_is_on_stdout(small: Path) -> None:
    argv = [sys.executable, "-m", "torusformer.pipelines.cli", "plan", str(small), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["pbs_total"] == 2
    assert done.stderr == ""
