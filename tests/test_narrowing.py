"""Sums rounded or wrapped: as many bits as asked for, entries kept where they can be, all exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.commands import printed, refused, say
from tests.programs import Builder
from tests.qonnx_graphs import GraphMaker
from torusformer import InputError
from torusformer.fhe_compile import (
    Program,
    compile_program,
    interpret,
    load_program,
    lower,
    narrow,
    plan,
)
from torusformer.fhe_compile.passes.narrow_sums import Narrowing, narrow_sums, widths_read
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.fhe_compile.prices.failure import FAST
from torusformer.fhe_compile.program.nodes import Linear, Port, Round, Table
from torusformer.fhe_compile.program.onnx_io import from_onnx, to_onnx
from torusformer.fhe_compile.tfhe import narrowing
from torusformer.fhe_compile.tfhe.answers_kept import AnswersKept, corrected
from torusformer.fhe_compile.tfhe.coupled_prices import CoupledPrices, Reading
from torusformer.fhe_compile.tfhe.narrow_columns import Groups, Joined
from torusformer.strict_json import parse_json

RNG = np.random.default_rng(0)


def steps(widths: np.ndarray, start: int = -60, size: int = 128) -> Program:
    """Channels that saturate at -2 and 1, with thresholds `widths` apart around 0."""
    x = np.arange(start, start + size)
    tables = [np.clip(np.floor(x / w + 0.5), -2, 1).astype(np.int64) for w in widths]
    offset = np.arange(len(widths)) * size - start
    return Program(
        inputs=(Port("x", (1, len(widths)), start, start + size - 1),),
        outputs=(Port("y", (1, 1), -2 * len(widths), len(widths)),),
        nodes=(
            Table("t", "act", ("x",), offset, np.concatenate(tables)),
            Linear("y", "out", ("t",), np.ones((len(widths), 1), np.int64)),
        ),
    )


def mlp() -> tuple[Program, list[dict[str, np.ndarray]]]:
    """Two layers whose sums reach far beyond what they are on samples, which come with it."""
    rng, g = np.random.default_rng(1), GraphMaker((1, 12))
    x = g.quant("x", 0.5, 2)
    for i, (rows, columns) in enumerate(((12, 3), (3, 3))):
        weight = rng.integers(-1, 2, (rows, columns))
        x = g.op("MatMul", x, g.weight(weight, bits=2), layer=f"fc{i}")
        x = g.op("Mul", x, g.const(rng.uniform(0.8, 1.2, columns)), layer=f"fc{i}")
        x = g.quant(x, 0.29 if i == 0 else 0.11, 2, layer=f"act{i}")
    y = g.op("MatMul", x, g.weight(rng.integers(-1, 2, (3, 2)), bits=2), layer="out")
    program = lower(g.model(y))
    return program, [{"x": rng.integers(-1, 2, (1, 12))} for _ in range(60)]


def answers(program: Program, sample: dict[str, np.ndarray]) -> np.ndarray:
    return interpret(program, sample)[program.outputs[0].name]


def test_steps_a_power_of_two_apart_lose_nothing() -> None:
    program = steps(np.array([8, 8, 4]), size=120)
    found = narrow_sums(program, {"t": Narrowing(5)})
    assert widths_read(program)["t"] == 7
    assert widths_read(found)["t"] == 5
    assert next(node for node in found.nodes if isinstance(node, Round)).lsbs == 2
    for x in range(-60, 60):
        sample = {"x": np.full((1, 3), x)}
        assert np.array_equal(answers(program, sample), answers(found, sample))


def test_rounding_is_to_the_nearest_where_nothing_says_better() -> None:
    """As Concrete's: the table at the nearest multiple of 2^k, halves up."""
    ramp = Program(
        inputs=(Port("x", (1, 1), 0, 63),),
        outputs=(Port("y", (1, 1), 0, 63),),
        nodes=(Table("y", "act", ("x",), np.array(0), np.arange(64)),),
    )
    found = narrow_sums(ramp, {"y": Narrowing(5)})
    got = [int(answers(found, {"x": np.array([[x]])}).item()) for x in range(64)]
    assert max(abs(y - x) for x, y in enumerate(got)) == 1
    assert found.ranges["y"].hi.max() <= 63


def test_what_samples_reach_is_kept_by_a_table_that_wraps() -> None:
    program = steps(np.array([5.3, 7.1, 3.9]))
    seen = RNG.integers(-25, 26, (200, 1, 3))
    found = narrow_sums(program, {"t": Narrowing(6, "wrapped")}, {"x": seen})
    assert widths_read(found)["t"] == 6
    assert not any(isinstance(node, Round) for node in found.nodes)
    for x in seen:
        assert np.array_equal(answers(program, {"x": x}), answers(found, {"x": x}))
    far = {"x": np.full((1, 3), 45)}  # one step off in each channel, no more
    assert abs(answers(program, far) - answers(found, far)) <= 3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_random_tables_read_what_they_may(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    count, bits = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    how = data.draw(st.sampled_from(["rounded", "wrapped"]))
    program = steps(
        rng.uniform(1, 30, count), int(rng.integers(-90, 0)), int(rng.integers(20, 200))
    )
    low, high = program.inputs[0].lo, program.inputs[0].hi
    seen = rng.integers(low, high + 1, (30, 1, count))
    found = narrow_sums(program, {"t": Narrowing(bits, how)}, {"x": seen})
    assert widths_read(found)["t"] <= bits
    read = from_onnx(to_onnx(found))
    for x in (*seen[:4], np.full((1, count), low), np.full((1, count), high)):
        y = answers(found, {"x": x})
        assert np.array_equal(y, answers(read, {"x": x}))
        assert found.outputs[0].lo <= y.min() <= y.max() <= found.outputs[0].hi


def test_within_a_budget_it_is_cheaper_and_says_so() -> None:
    program, samples = mlp()
    found = narrow(program, samples, within=0.05)
    assert found.lost is not None
    assert found.lost <= 0.05
    assert AnswersKept(program, samples).loss(found.program) == found.lost
    assert found.after.predicted_seconds < found.before.predicted_seconds
    assert plan(found.program).predicted_seconds == found.after.predicted_seconds
    told = parse_json(found.program.metadata["narrowed"])
    assert {x.layer for x in found.layers} == set(told["layers"])
    for x in found.layers:
        assert told["layers"][x.layer] == {"bits": [x.bits_before, x.bits_after], "how": x.how}
        assert x.bits_after < x.bits_before
        assert x.layer in str(found)


def sums_apart() -> tuple[Program, list[dict[str, np.ndarray]]]:
    """Any of eight sums may be 63; on samples four are, and four stay below eight."""
    b = Builder(Port("x", (1, 8), 0, 7, np.array(0.5)))
    b.add(Linear("sums", "up", ("x",), 8 * np.eye(8, dtype=np.int64) + np.eye(8, k=1, dtype=int)))
    b.table("act", "up", "sums", lambda n: n // 5)
    rng = np.random.default_rng(1)
    b.add(Linear("y", "down", ("act",), rng.integers(-2, 3, (8, 3))))
    samples = [{"x": rng.integers(0, np.where(np.arange(8) < 4, 8, 1), (1, 8))} for _ in range(60)]
    return b.program("y"), samples


def test_columns_of_one_table_keep_different_bits() -> None:
    program, samples = sums_apart()
    found = narrow(program, samples, within=0.0)
    assert found.lost == 0.0
    assert all(np.array_equal(*(answers(p, x) for p in (program, found.program))) for x in samples)
    (layer,) = found.layers
    assert layer.tables == 4
    assert layer.bits == "6 -> 3"
    assert max(found.after.pbs_by_bit_width) == 6
    assert replace(layer, bits_after=5).bits == "6 -> 3-5"


def test_what_loses_more_once_it_is_joined_stays_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of columns that share a table once more may share a window that does not fit them."""
    program, samples = sums_apart()
    apart = narrow(program, samples, within=0.0)

    def joined(clean: Program, groups: Groups, chosen: dict[str, Narrowing]) -> Joined:
        assert groups and chosen
        return Joined(clean, {"act": Narrowing(2, "wrapped")})

    monkeypatch.setattr(narrowing, "join", joined)
    found = narrow(program, samples, within=0.0)
    assert found.lost == 0.0
    assert found.after.predicted_seconds <= apart.after.predicted_seconds


def test_no_budget_changes_no_answer() -> None:
    program, samples = mlp()
    found = narrow(program, samples, within=0.0)
    assert found.lost == 0.0


def test_every_stage_computes_the_narrowed_program() -> None:
    """ONNX Runtime, simulation and decryption give the interpreter's integers."""
    program, samples = mlp()
    seen = AnswersKept(program, samples).sums
    first, second = widths_read(program)
    to = {first: Narrowing(3), second: Narrowing(2, "wrapped")}
    found = narrow_sums(program, to, seen)
    widths = widths_read(found)
    assert widths[first] <= 3
    assert widths[second] <= 2
    assert any(isinstance(node, Round) for node in found.nodes)
    assert len({answers(found, sample).tobytes() for sample in samples}) > 3
    session = onnxruntime.InferenceSession(to_onnx(found).SerializeToString())
    circuit = compile_program(found, p_error=FAST)
    extreme = {"x": np.full((1, 12), found.inputs[0].lo)}
    for i, sample in enumerate((samples[0], extreme, samples[1])):
        expected = answers(found, sample)
        assert np.array_equal(session.run(None, sample)[0], expected)
        assert np.array_equal(circuit.run(sample, fhe="simulate")[found.outputs[0].name], expected)
        if i == 0:
            got = circuit.run(sample, fhe="execute")[found.outputs[0].name]
            assert np.array_equal(got, expected)


def test_answers_of_a_regressor_are_compared_by_their_size() -> None:
    program = steps(np.array([8.0]))
    kept = AnswersKept(program, [{"x": np.array([[x]])} for x in range(-60, 68)])
    assert not kept.is_classifier
    assert kept.loss(narrow_sums(program, {"t": Narrowing(2)})) == 0.5


def test_the_plan_names_what_could_be_rounded() -> None:
    made = plan(steps(np.linspace(3, 9, 20)))
    (wide,) = made.wide
    assert (wide.layer, wide.bits, wide.tables) == ("act", 7, 20)
    assert list(wide.rounded) == [6, 5, 4]
    assert all(seconds < wide.seconds for seconds in wide.rounded.values())
    assert "act: 20 tables read sums of 7 bits" in made.table()
    assert not plan(steps(np.array([2.0]), -8, 16)).wide


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give bits or within"),
        ({"bits": 17}, "tables read 1 to 16"),
        ({"within": 2.0}, "a share of answers"),
        ({"within": 0.1}, "give some"),
    ],
)
def test_what_means_nothing_is_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        narrow(steps(np.array([4.0])), **arguments)  # type: ignore[arg-type]


def test_the_command_rounds_and_prints_what_it_lost(tmp_path: Path) -> None:
    g = GraphMaker((1, 40))
    wide = g.op("MatMul", g.quant("x", 0.5, 2), g.weight(np.ones((40, 3))), layer="fc")
    model, out, samples = (tmp_path / name for name in ("m.onnx", "p.onnx", "s.npz"))
    onnx.save(g.model(g.quant(wide, 2.0, 3, layer="act")), model)
    np.savez(samples, x=RNG.uniform(-1, 1, (50, 40)))
    said = printed(f"lower {model} --out {out} --accumulator-bits 5")
    assert [(x["layer"], x["bits_after"]) for x in said["rounded"]["layers"]] == [("act", 5)]
    assert "narrowed" in load_program(out).metadata
    text = say(f"lower {model} --out {out} --within 5% --calibrate {samples}").out
    assert "lost by it alone" in text
    assert "on 12 samples that chose nothing: same class as the file's" in text
    assert "give them with --calibrate" in refused(f"lower {model} --out {out} --within 1%")
    assert "a part below one" in refused(f"lower {model} --out {out} --within 1")
    np.savez(samples, z=np.zeros((2, 40)), w=np.zeros(3))
    line = f"lower {model} --out {out} --within 1% --calibrate {samples}"
    assert "has no array 'x'" in refused(line)


def test_a_table_that_is_tight_gives_no_code_that_it_did_not_give() -> None:
    program = steps(np.array([5.3, 7.1, 3.9]))
    seen = {"x": np.random.default_rng(0).integers(-25, 26, (200, 1, 3))}
    free, tight = (
        narrow_sums(program, {"t": Narrowing(6, "wrapped", 0, tight)}, seen).ranges["t"]
        for tight in (False, True)
    )
    assert -2 <= tight.lo.min() <= tight.hi.max() <= 1
    assert free.hi.max() - free.lo.min() > 3


def test_a_sum_is_rounded_and_what_is_left_wraps() -> None:
    program = steps(np.array([5.3, 7.1, 3.9]))
    found = narrow_sums(program, {"t": Narrowing(4, "wrapped", 1)})
    assert [node.lsbs for node in found.nodes if isinstance(node, Round)] == [1]
    assert widths_read(found)["t"] == 4
    rounding, table = plan(found).rows
    assert (rounding.bits, table.bits, table.wraps) == (5, 4, True)


def test_prices_of_other_widths_are_near_the_plan() -> None:
    program, samples = mlp()
    seen = AnswersKept(program, samples).sums
    prices = load_prices()
    known = CoupledPrices(plan(program, without=["narrow_clips"]).encoding, prices)
    first = next(iter(widths_read(program)))
    found = narrow_sums(program, {first: Narrowing(3, "wrapped", 1)}, seen)
    tag = next(tag for tag in known.given if tag.endswith(first))
    about = known.milliseconds({tag: Reading(3, 1)})
    assert about == pytest.approx(1000 * plan(found).predicted_seconds, rel=0.05)
    assert known.milliseconds({}) == pytest.approx(1000 * plan(program).predicted_seconds, rel=0.05)


def test_answers_are_kept_of_the_model_and_average_errors_are_taken_off() -> None:
    program, samples = mlp()
    own = AnswersKept(program, samples).own[0]
    right = {program.outputs[0].name: own + np.array([3.0, 0.0])}
    kept = AnswersKept(program, samples, right)
    assert kept.loss(program) > 0.1
    assert kept.loss(corrected(program, kept.error(kept.own))) == 0.0
    found = narrow(program, samples, within=0.05, reference=right)
    assert found.lost is not None
    assert found.lost <= 0.05


def test_a_table_of_nine_bits_keeps_as_many_as_samples_need() -> None:
    program = steps(np.array([5.3, 7.1, 3.9]), start=-250, size=501)
    samples = [{"x": RNG.integers(-60, 61, (1, 3))} for _ in range(300)]
    (layer,) = narrow(program, samples, within=0.0).layers
    assert (layer.bits_before, layer.bits_after, layer.lost) == (9, 7, 0.0)
