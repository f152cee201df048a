"""`plan`, `calibrate` and `--p-error` on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import printed, refused, say
from tests.programs import Builder
from torusformer.fhe_compile import compile_program, save_program
from torusformer.fhe_compile.circuit.calibrate import samples
from torusformer.fhe_compile.prices.timings import this_machine
from torusformer.fhe_compile.program.nodes import Linear, Port


def classifier(tables: int) -> Builder:
    b = Builder(Port("x", (1, 2), 0, 7, np.array(0.5)))
    name = "x"
    for i in range(tables):
        b.table(f"act{i}", f"blocks.{i}", name, lambda n: (n * n + 1) % 8)
        b.add(Linear(f"mix{i}", f"blocks.{i}", (f"act{i}",), np.array([[1, 1], [1, 0]])))
        name = f"mix{i}"
    b.add(Linear("logits", "head", (name,), np.array([[1, -1, 2], [-1, 1, 1]])))
    return b


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cost")
    for tables in (1, 2):
        program = classifier(tables).program("logits", labels='["a", "b", "c"]')
        save_program(program, path / f"{tables}.onnx")
    save_program(classifier(0).program("logits"), path / "0.onnx")
    np.save(path / "x.npy", np.array([[0.5, 3.5]] * 40))
    return path


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_plan_says_how_likely_a_run_fails() -> None:
    exact, fast = (printed(f"plan 2.onnx {p}") for p in ("", "--p-error fast"))
    assert (exact["p_error"], fast["p_error"]) == (2**-64, 2**-20)
    assert fast["failure_probability"] == pytest.approx(fast["pbs_total"] * 2**-20, rel=1e-4)
    assert fast["predicted_seconds"] < exact["predicted_seconds"]
    assert (
        "p_error 2^-20 (fast) a bootstrap, failure of a run"
        in say("plan 2.onnx --p-error 2**-20").out
    )


def test_plan_by_layer() -> None:
    data = printed("plan 2.onnx")
    assert data["seconds_by_layer"].keys() == data["pbs_by_layer"].keys()
    total = sum(data["seconds_by_layer"].values())
    assert total == pytest.approx(data["predicted_seconds"], abs=1e-3)
    assert data["key_bytes_by_bit_width"].keys() == data["pbs_by_bit_width"].keys()
    assert sum(data["key_bytes_by_bit_width"].values()) < data["key_bytes"]
    ciphertexts = data["ciphertext_bytes_by_layer"]
    assert 0 < max(ciphertexts.values()) < data["peak_memory_bytes"]
    assert {"processor", "threads", "date", "origin", "elsewhere"} <= data["prices"].keys()


def test_two_plans_side_by_side() -> None:
    data = printed("plan 1.onnx --compare 2.onnx")
    rows = {row["layer"]: row for row in data["by_layer"]}
    assert rows["blocks.0"]["pbs"] == [2, 2]
    assert rows["blocks.1"]["pbs"] == [0, 2]
    assert rows["total"]["pbs_ratio"] == 0.5
    assert rows["total"]["seconds"][1] == pytest.approx(
        data["compared_with"]["predicted_seconds"], abs=1e-3
    )
    lines = say("plan 2.onnx --compare 1.onnx").out.splitlines()
    assert lines[:2] == ["A  2.onnx", "B  1.onnx"]
    assert lines[-1].split()[:4] == ["total", "4", "2", "2.00"]
    assert lines[-2].split()[3] == "-"  # the layer that the second does not have


def test_bars_in_the_terminal() -> None:
    first, second = say("plan 2.onnx --chart").out.splitlines()[-2:]
    data = printed("plan 2.onnx")["seconds_by_layer"]
    longest = max(data.values())
    for line, (layer, seconds) in zip((first, second), data.items(), strict=True):
        assert line.startswith(layer)
        assert line.count("█") == pytest.approx(40 * seconds / longest, abs=1.5)
    assert "no bootstraps" in say("plan 0.onnx --chart").out


def test_bars_as_a_picture(folder: Path) -> None:
    say("plan 2.onnx --compare 1.onnx --png bars.png")
    assert (folder / "bars.png").read_bytes()[:4] == b"\x89PNG"
    say("plan 0.onnx --png bars.png")  # ours, and nothing to draw
    (folder / "holiday.png").write_bytes(b"mine")
    assert "holiday.png" in refused("plan 1.onnx --png holiday.png")
    assert (folder / "holiday.png").read_bytes() == b"mine"


def test_calibrate_keeps_what_plan_counts_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = samples(1)[:1]
    inner = "torusformer.fhe_compile.circuit.calibrate"
    monkeypatch.setattr(f"{inner}.samples", lambda widest: few)
    monkeypatch.setattr(f"{inner}.measure", lambda sample: (sample.sizes, [7.0, 8.0, 9.0]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    data = printed("calibrate")
    assert Path(data["out"]).is_relative_to(folder / "cache")
    assert this_machine().items() <= data["machine"].items()
    assert data["table_ms"].keys() == {"exact", "fast"}
    assert printed("plan 1.onnx")["prices"]["origin"] == "calibrated"

    assert "table of 3 bits *" in say("calibrate --widest 1 --out prices.json").out
    assert printed("plan 1.onnx --prices prices.json")["prices"]["origin"] == "given"
    moved = json.loads((folder / "prices.json").read_text())
    moved["machine"]["processor"] = "Abacus"
    (folder / "moved.json").write_text(json.dumps(moved))
    assert "processor Abacus, here" in refused("plan 1.onnx --prices moved.json")

    Path(data["out"]).write_text(json.dumps(moved))  # not asked for by name: a note, no more
    assert "the calibration of this user is not used" in say("plan 1.onnx").err
    (folder / "thesis.json").write_text("mine")
    assert "thesis.json" in refused("calibrate --out thesis.json")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("plan 1.onnx --p-error sometimes", "exact, fast or a number"),
        ("plan 1.onnx --p-error 2", "between 0 and 1"),
        ("compile 1.onnx --p-error 0 --out new", "between 0 and 1"),
        ("demo digits --preset tiny --p-error 1.5 --out new", "between 0 and 1"),
        ("plan 1.onnx --prices missing.json", "missing.json"),
        ("plan 1.onnx --prices x.npy", "not a price list"),
        ("plan 1.onnx --compare missing.onnx", "missing.onnx"),
        ("calibrate --widest 9", "--widest"),
        ("run --program 1.onnx --input x.npy --p-error fast", "nothing is compiled"),
        ("run --program 1.onnx --input x.npy --fhe simulate --faults fast", "--fhe disable"),
        ("run --program 1.onnx --input x.npy --faults often", "exact, fast or a number"),
    ],
)
def test_mistakes(line: str, word: str) -> None:
    assert word in refused(line)


def test_no_secure_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("NoParametersFound")

    monkeypatch.setattr("torusformer.fhe_compile.circuit.backend.ModuleCompiler.compile", refuse)
    err = refused("compile 1.onnx --p-error 2**-40 --out new")
    assert "no 128-bit secure parameters for p_error 2^-40; the widest table is blocks.0" in err


def test_p_error_reaches_concrete_and_the_deployment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = printed("compile 1.onnx --p-error fast --out fast")
    assert data["p_error"] == 2**-20
    assert json.loads((folder / "fast" / "interface.json").read_text())["p_error"] == 2**-20
    asked: list[float] = []

    def spy(*args, **options):
        asked.append(options["p_error"])
        return compile_program(*args, **options)

    monkeypatch.setattr("torusformer.pipelines.answers.compile_program", spy)
    printed("run --program 1.onnx --input x.npy --fhe simulate --p-error 0.001")
    printed("run --program 1.onnx --input x.npy --fhe simulate")
    assert asked == [0.001, 2**-64]


def test_faults_change_answers() -> None:
    line = "run --program 2.onnx --input x.npy --fhe disable --faults"
    often, again = (printed(f"{line} 0.2 --seed 1") for _ in range(2))
    assert often["bootstraps"] == 40 * 4
    assert 0 < often["faults"] < often["bootstraps"]
    assert often["bit_exact"] < 40
    assert [r["outputs"] for r in often["results"]] == [r["outputs"] for r in again["results"]]
    never = printed(f"{line} exact")
    assert (never["faults"], never["changed"], never["bit_exact"]) == (0, 0, 40)
    clear = printed("run --program 2.onnx --input x.npy")
    answers = [r["prediction"] for r in clear["results"]]
    wrong = [r["prediction"] != a for r, a in zip(often["results"], answers, strict=True)]
    assert often["changed"] == sum(wrong)
    assert "faults in 160 bootstraps changed" in say(f"{line} 0.2").out
