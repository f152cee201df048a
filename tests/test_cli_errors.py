"""A user's mistake: exit code 2, one sentence that names the cure, nothing overwritten."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.programs import Builder
from torusformer.fhe_compile import save_program
from torusformer.fhe_compile.program.nodes import Linear, Port
from torusformer.pipelines.cli import main


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, a deployment, and many things that look like one."""
    folder = tmp_path_factory.mktemp("artefacts")
    b = Builder(Port("x", (1, 2), 0, 7, np.array(0.5)))
    b.table("act", "act", "x", lambda n: n // 2)
    save_program(b.program("act"), folder / "program.onnx")
    assert main(["compile", str(folder / "program.onnx"), "--out", str(folder / "deployment")]) == 0

    b = Builder(Port("x", (1, 2), 0, 7))
    b.add(Linear("acc", "blocks.0.mlp.up", ("x",), np.array([[10_000], [9_999]])))
    b.table("y", "blocks.0.mlp.up", "acc", lambda n: n % 3)
    save_program(b.program("y"), folder / "wide.onnx")

    whole = (folder / "program.onnx").read_bytes()
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("not a model")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2))
    for name, op in (("unknown", "Erf"), ("unquantized", "Relu")):
        node = helper.make_node(op, ["x"], ["y"], name=f"/blocks.0/mlp/{op}")
        graph = helper.make_graph([node], "g", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
        onnx.save(model, str(folder / f"{name}.qonnx.onnx"))

    for name, change in (("old", {"concrete-python": "1.0.0"}), ("other", None)):
        shutil.copytree(folder / "deployment", folder / name)
        path = folder / name / "versions.json"
        record = json.loads(path.read_text())
        if change:
            record["versions"].update(change)
        else:
            record["artefact"] = "run"
        path.write_text(json.dumps(record))
    for name in ("no-server", "cut-client"):
        shutil.copytree(folder / "deployment", folder / name)
    (folder / "no-server" / "server.zip").unlink()
    client = folder / "cut-client" / "client.zip"
    client.write_bytes(client.read_bytes()[:100])

    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("mine")
    (folder / "thesis.onnx").write_text("mine")
    np.save(folder / "x.npy", np.array([[0.5, 1.0]]))
    np.save(folder / "nan.npy", np.array([[0.5, np.nan]]))
    np.save(folder / "shape.npy", np.zeros((4, 3)))
    np.save(folder / "words.npy", np.array([["a", "b"]]))
    np.save(folder / "high.npy", np.array([[0, 8]]))
    np.savez(folder / "names.npz", y=np.zeros((1, 2)), z=np.zeros((1, 2)))
    (folder / "text.npy").write_text("not an array")
    (folder / "bad.csv").write_text("a,b\n1,2\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


RUN = "run --program program.onnx"
CASES = [
    # arguments
    ("", "required"),
    ("fly", "invalid choice"),
    ("plan", "required"),
    ("train --out new --epochs 0", "--epochs"),
    ("train --out new --epochs some", "whole number"),
    ("train --out new --seed -1", "--seed"),
    ("demo digits --images 0 --out new", "--images"),
    ("run --task digits", "required"),
    (f"{RUN} --deployment deployment --task digits", "not allowed"),
    (f"{RUN} --input x.npy --fhe maybe", "invalid choice"),
    ("run --deployment deployment --input x.npy --fhe simulate", "only executes"),
    ("run --program program.onnx --input x.npy --jobs 2", "give --deployment"),
    ("tune --preset tiny --min-accuracy 96 --out new", "share between 0 and 1"),
    ("tune --preset tiny --max-seconds nan --out new", "seconds above 0"),
    ("tune --preset tiny --fields colour --out new", "act_bit_width"),
    ("tune --preset huge --out new", "digits-small"),
    ("tune --preset tiny --data missing.npz --out new", "missing.npz"),
    ("tune --preset tiny --out full", "already holds"),
    ("tune --preset tiny --out deployment", "already holds"),
    ("tune --preset tiny --out thesis.onnx", "not a folder"),
    ("train --preset tiny --config bad.csv --out new", "not allowed"),
    ("train --config missing.json --out new", "missing.json"),
    ("train --config bad.csv --out new", "not a configuration"),
    ("demo digits --config versions.json --out new", "versions.json"),
    # names
    ("train --preset huge --out new", "digits-small"),
    ("train --task mnist --out new", "digits"),
    ("demo mnist --out new", "digits"),
    (f"{RUN} --task mnist", "choose one of digits, images, words"),
    # missing
    ("lower missing.onnx --out new.onnx", "missing.onnx"),
    ("plan missing.onnx", "missing.onnx"),
    ("compile missing.onnx --out new", "missing.onnx"),
    ("run --program missing.onnx --input x.npy", "missing.onnx"),
    ("run --deployment missing --input x.npy", "missing"),
    ("train --data missing.npz --out new", "missing.npz"),
    (f"{RUN} --input missing.npy", "missing.npy"),
    # truncated or foreign
    ("plan truncated.onnx", "truncated.onnx"),
    ("plan empty.onnx", "empty.onnx"),
    ("plan text.onnx", "text.onnx"),
    ("plan unquantized.qonnx.onnx", "not a torusformer program"),
    ("plan full", "full"),
    ("lower text.onnx --out new.onnx", "text.onnx"),
    ("run --deployment full --input x.npy", "full"),
    ("run --deployment no-server --input x.npy", "server.zip"),
    ("run --deployment cut-client --input x.npy", "client.zip"),
    ("run --deployment old --input x.npy", "concrete-python 1.0.0"),
    ("run --deployment other --input x.npy", "not a deployment"),
    ("train --data bad.csv --out new", "label"),
    ("train --data text.npy --out new", "text.npy"),
    # what cannot be lowered or compiled
    ("lower unknown.qonnx.onnx --out new.onnx", "Erf"),
    ("lower unquantized.qonnx.onnx --out new.onnx", "before any quantizer"),
    ("plan wide.onnx", "blocks.0.mlp.up"),
    ("compile wide.onnx --out new", "accumulator_bit_width"),
    # inputs
    (f"{RUN} --input nan.npy", "NaN"),
    (f"{RUN} --input shape.npy", "shape"),
    (f"{RUN} --input words.npy", "numbers"),
    (f"{RUN} --input text.npy", "text.npy"),
    (f"{RUN} --input names.npz", "'x'"),
    (f"{RUN} --input high.npy --integers", "[0, 7]"),
    (f"{RUN} --input x.npy --integers", "integers"),
    # output that holds something else
    ("lower unknown.qonnx.onnx --out thesis.onnx", "thesis.onnx"),
    ("lower unknown.qonnx.onnx --out full", "full"),
    ("compile program.onnx --out full", "already holds"),
    ("compile program.onnx --out thesis.onnx", "not a folder"),
    ("train --preset tiny --out full", "already holds"),
    ("train --preset tiny --out deployment", "already holds"),
    ("demo digits --preset tiny --out full", "already holds"),
    ("demo digits --preset tiny --out thesis.onnx/new", "cannot be made"),
]


@pytest.mark.parametrize(("line", "word"), CASES, ids=[line for line, _ in CASES])
def test_one_sentence_and_nothing_overwritten(
    line: str,
    word: str,
    artefacts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(artefacts)
    before = contents(artefacts)
    assert main(line.split()) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("torusformer")
    assert word in said.err
    assert str(Path(__file__).parent.parent) not in said.err
    assert contents(artefacts) == before


def test_the_console_script_exits_with_two(artefacts: Path) -> None:
    argv = [sys.executable, "-m", "torusformer.pipelines.cli", "plan", "missing.onnx"]
    root = Path(__file__).parent.parent
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
