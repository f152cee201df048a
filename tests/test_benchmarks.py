"""The benchmark's runner with parts that measure nothing, and the pieces its parts are made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import store as store_module
from benchmarks.attention import (
    AttentionConfig,
    inhibitor_program,
    random_inputs,
    softmax_program,
    softmax_reference,
)
from benchmarks.naive import compile_naive, run_naive
from benchmarks.parts import PARTS
from benchmarks.render import table
from benchmarks.runner import Bench, Part, run
from benchmarks.store import Store
from torusformer import InputError
from torusformer.fhe_compile import interpret


class Stub:
    """Two parts; `calls` says what was measured, `stop_at` where Ctrl-C is pressed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.stop_at = folder, [], ""
        self.parts = (
            Part("first", "First", "Shows one.", self.measure, self.render),
            Part("second", "Second", "Shows two.", self.second, self.render, needs=("first",)),
        )

    def made(self, name: str) -> int:
        if name == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(name)
        return len(self.calls)

    def measure(self, bench: Bench) -> dict[str, Any]:
        return {key: bench.keep(key, self.made, f"{bench.part}.{key}") for key in "ab"}

    def second(self, bench: Bench) -> dict[str, Any]:
        return {**self.measure(bench), "of_first": bench.result("first")["b"] - 1}

    def render(self, result: Any) -> str:
        return table(("a", "b"), [(result["a"], result["b"])])

    def run(self, *only: str) -> list[str]:
        self.calls = []
        return run(self.parts, only, Store(self.folder / "cache"), self.folder)

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text())


ALL = ["first.a", "first.b", "second.a", "second.b"]


def test_a_run_writes_json_and_markdown(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    assert stub.run() == []
    assert stub.calls == ALL
    assert {"machine", "versions", "date", "first", "second"} == stub.results.keys()
    assert {"processor", "threads"} <= stub.results["machine"].keys()
    assert stub.results["second"]["of_first"] == 1
    text = (tmp_path / "results.md").read_text()
    assert "## Second\n\nShows two.\n\n| a | b |\n|---:|---:|\n| 3 | 4 |" in text
    assert "make bench ONLY=second" in text


@pytest.mark.parametrize("stop", range(4))
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, stop: int) -> None:
    stub = Stub(tmp_path)
    stub.stop_at = ALL[stop]
    with pytest.raises(KeyboardInterrupt):
        stub.run()
    assert stub.calls == ALL[:stop]
    stub.stop_at = ""
    stub.run()
    assert stub.calls == ALL[stop:]


def test_a_finished_run_is_measured_anew(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.run()
    stub.run()
    assert stub.calls == ALL


def test_one_part_alone_leaves_the_others(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.run()
    before = stub.results["first"]
    stub.run("second")
    assert stub.calls == ALL[2:]
    assert stub.results["first"] == before


def test_one_part_alone_measures_what_it_needs(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.run("second")
    assert stub.calls == ALL


def test_results_without_their_cache_stay(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.run()
    stub.folder.joinpath("cache").rename(tmp_path / "gone")
    before = stub.results["second"]
    stub.run("first")
    assert stub.calls == ALL[:2]
    assert stub.results["second"] == before


def test_measurements_of_another_machine_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(tmp_path)
    stub.stop_at = "second.b"
    with pytest.raises(KeyboardInterrupt):
        stub.run()
    stub.stop_at = ""
    monkeypatch.setattr(store_module, "machine", lambda: {"processor": "another", "threads": 1})
    stub.run()
    assert stub.calls == ALL
    assert "not used, measured anew" in capsys.readouterr().err


def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def broken(_: Bench) -> dict[str, Any]:
        raise ValueError("no luck")

    stub = Stub(tmp_path)
    stub.parts = (Part("broken", "Broken", "Fails.", broken, stub.render), *stub.parts)
    assert stub.run() == ["broken"]
    assert stub.calls == ALL
    assert "broken" not in stub.results


def test_a_result_of_an_earlier_form_of_a_part_spoils_no_other(tmp_path: Path) -> None:
    stub = Stub(tmp_path)
    stub.run()
    result = stub.results["first"]
    del result["a"]
    Store(tmp_path / "cache").finish("first", result)
    stub.run("second")
    text = (tmp_path / "results.md").read_text()
    assert "lacks 'a': measure it again" in text and "## Second" in text


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part 'third'; choose among first, second"):
        Stub(tmp_path).run("third")


def test_a_part_on_a_file_of_the_users_is_left_out_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(tmp_path)
    third = Part("third", "Third", "Shows yours.", stub.measure, stub.render, data=".npz")
    parts, store = (*stub.parts, third), Store(tmp_path / "cache")
    assert run(parts, [], store, tmp_path, data=tmp_path / "names.txt") == []
    assert stub.calls == ALL
    assert "third: left out, it is measured on a .npz file of yours" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"the part third .* \.npz file of yours: give --data"):
        run(parts, ["third"], store, tmp_path)
    assert run(parts, ["third"], store, tmp_path, data=tmp_path / "images.npz") == []
    assert stub.calls == [*ALL, "third.a", "third.b"]
    assert "make bench ONLY=third DATA=FILE.npz" in (tmp_path / "results.md").read_text()


def test_every_part_stands_behind_what_it_needs() -> None:
    names = [part.name for part in PARTS]
    assert len(names) == len(set(names))
    for i, part in enumerate(PARTS):
        assert set(part.needs) <= set(names[:i]), part.name


SMALL = AttentionConfig(tokens=3, head_dim=4, heads=2, score_bits=12, exp_bits=10, sum_bits=14,
                        log_bits=9, weight_bits=8)  # fmt: skip


def test_fine_integers_give_softmax_attention() -> None:
    config = AttentionConfig(**{**vars(SMALL), "temperature": 1.0})
    program = softmax_program(config)
    port = program.outputs[0]
    for seed in range(5):
        inputs = random_inputs(config, seed)
        found = interpret(program, inputs)[port.name] * port.scale
        assert np.abs(found - softmax_reference(config, inputs)).max() < 0.3


def test_the_inhibitor_sums_what_distance_leaves_of_values() -> None:
    config = AttentionConfig(tokens=2, head_dim=1, heads=1, score_bits=8)
    program = inhibitor_program(config)
    (port,) = program.outputs
    q = np.array([[[1], [-8]]])
    inputs = {"q": q, "k": q, "v": np.array([[[3], [5]]])}
    found = interpret(program, inputs)[port.name]
    assert found.ravel().tolist() == [3, 5]  # a token far away adds nothing


@pytest.mark.parametrize("build", [softmax_program, inhibitor_program])
def test_the_naive_circuit_computes_the_program(build: Callable[..., Any]) -> None:
    config = AttentionConfig(tokens=2, head_dim=1, heads=1, bits=2, score_bits=3, exp_bits=2,
                             sum_bits=3, log_bits=2, weight_bits=2)  # fmt: skip
    program = build(config)
    samples = [random_inputs(config, seed) for seed in range(20)]
    circuit = compile_naive(program, samples, 2.0**-20)
    assert run_naive(circuit, program, samples[0])["bit_exact"]
