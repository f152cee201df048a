"""Prices: Concrete's parameters at a failure probability, times what a machine takes for them."""

import json
from pathlib import Path

import pytest

from tests.programs import every_node
from torusformer import ArtifactError
from torusformer.fhe_compile.prices import timings as timings_module
from torusformer.fhe_compile.prices.cost import load_prices, price_list
from torusformer.fhe_compile.prices.failure import EXACT, FAST
from torusformer.fhe_compile.prices.parameters import KeySizes, parameters_for, surveyed
from torusformer.fhe_compile.prices.timings import (
    Timings,
    cache_file,
    difference,
    find_timings,
    read_timings,
    this_machine,
)
from torusformer.fhe_compile.tfhe.plan import plan

SIZES = KeySizes(small=800, glwe=1, polynomial=2048, level=1, keyswitch=5)


def write(path: Path, ms: float = 7.0, **machine: object) -> Path:
    """A price list of this machine, but for what is said otherwise."""
    about = {**this_machine(), "date": "2026-01-01", **machine}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(Timings(about, {SIZES: ms}).to_json()))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_file()


def test_parameters_are_those_of_the_next_smaller_chance() -> None:
    assert parameters_for(EXACT).p_error == EXACT
    assert parameters_for(FAST).p_error == FAST
    assert parameters_for(1e-3).p_error == 2**-13
    assert parameters_for(2**-30).p_error == 2**-40
    assert parameters_for(0.9).p_error == 2**-7
    assert parameters_for(2**-100).p_error == EXACT  # there are none below


def test_a_smaller_chance_never_costs_less_work() -> None:
    strictest, *_, loosest = surveyed()
    for bits in range(2, 9):
        assert strictest.cheap[bits].work > loosest.cheap[bits].work
        assert all(p.precise[bits].work >= 0.9 * p.cheap[bits].work for p in surveyed())


def test_measured_parameters_have_their_own_time() -> None:
    other = KeySizes(800, 1, 2048, 2, 5)
    timings = Timings({}, {SIZES: 7.0, other: 12.0})
    assert (timings.ms(SIZES), timings.ms(other)) == (7.0, 12.0)


def test_the_same_polynomials_scale_with_the_small_key() -> None:
    other = KeySizes(700, 1, 4096, 1, 5)  # nearer by work, but another transform
    timings = Timings({}, {SIZES: 8.0, other: 100.0})
    assert timings.ms(KeySizes(1500, 1, 2048, 1, 5)) == pytest.approx(15.0)


def test_of_the_same_polynomials_the_nearest_keyswitch_counts() -> None:
    timings = Timings({}, {SIZES: 8.0, KeySizes(800, 1, 2048, 1, 3): 6.0})
    assert timings.ms(KeySizes(800, 1, 2048, 1, 2)) == 6.0


def test_wider_than_measured_is_extrapolated_by_work() -> None:
    twice = KeySizes(800, 1, 4096, 1, 5)
    assert Timings({}, {SIZES: 7.0}).ms(twice) == pytest.approx(7.0 * 2 * 12 / 11)


def test_the_list_follows_the_chance_of_failure() -> None:
    exact, fast = load_prices(), load_prices(p_error=FAST)
    assert (exact.p_error, fast.p_error) == (EXACT, FAST)
    assert all(fast.table(bits) < exact.table(bits) for bits in (3, 4, 5, 6))
    assert exact.keys[5].sent_bytes > fast.keys[5].sent_bytes
    slow, quick = plan(every_node()), plan(every_node(), p_error=FAST)
    assert quick.predicted_seconds < slow.predicted_seconds
    assert quick.key_bytes < slow.key_bytes
    assert plan(every_node(), fast).p_error == FAST  # the prices say which


def test_precise_tables_cost_more_from_their_threshold_on() -> None:
    prices = price_list(parameters_for(EXACT), find_timings(), EXACT)
    for bits in (3, 4, 5):
        limit = prices.precise_from["rounding"][bits]
        assert not prices.is_precise(bits, {"rounding": limit})
        assert prices.is_precise(bits, {"rounding": limit + 0.1})
        assert prices.is_precise(bits, {"table": limit})  # a table has less room for noise
        assert prices.table(bits, precise=True) > prices.table(bits)
    assert prices.rounding(8, 2, precise=True) > prices.rounding(8, 2)


def test_below_every_surveyed_chance_the_list_says_so() -> None:
    assert "no prices are known below p_error 2^-64" in load_prices(p_error=2**-80).note
    assert load_prices().note == ""


def test_the_shipped_list_without_a_calibration(cache: Path) -> None:
    assert not cache.exists()
    found = find_timings()
    assert (found.origin, found.note) == ("shipped", "")


def test_this_machines_own_list_comes_first(cache: Path) -> None:
    write(cache, ms=3.5)
    found = find_timings()
    assert (found.origin, found.note, found.ms(SIZES)) == ("calibrated", "", 3.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"processor": "Abacus"}, "processor Abacus, here "),
        ({"threads": 4096}, "threads 4096, here "),
        ({"concrete_python": "1.0"}, "concrete-python 1.0, here 2"),
        ({"torusformer": "0.0.1"}, "torusformer 0.0.1, here 0.1"),
    ],
)
def test_a_list_of_elsewhere(cache: Path, tmp_path: Path, change: dict, words: str) -> None:
    write(cache, **change)  # not asked for: ignored
    found = find_timings()
    assert found.origin == "shipped"
    assert words in found.note
    path = write(tmp_path / "named.json", **change)  # asked for: refused
    with pytest.raises(ArtifactError, match="measured elsewhere") as error:
        load_prices(path)
    assert words in str(error.value)


def test_a_damaged_cache_is_ignored(cache: Path) -> None:
    write(cache).write_text("{")
    found = find_timings()
    assert found.origin == "shipped"
    assert "damaged" in found.note


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "torusformer-prices"}'])
def test_what_is_no_list(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ArtifactError, match="not a price list"):
        load_prices(tmp_path / "x.json")
    with pytest.raises(ArtifactError, match="no such file"):
        load_prices(tmp_path / "y.json")


def test_milliseconds_are_positive(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a price list"):
        read_timings(write(tmp_path / "x.json", ms=-1.0))


def test_a_list_survives_its_file(tmp_path: Path) -> None:
    found = read_timings(write(tmp_path / "x.json"))
    assert found.measured == {SIZES: 7.0}
    assert found.machine["date"] == "2026-01-01"
    assert difference(found.machine) == ""


def test_the_shipped_list_elsewhere_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = find_timings().machine
    monkeypatch.setattr(timings_module, "processor", lambda: shipped["processor"])
    monkeypatch.setattr(timings_module, "threads", lambda: shipped["threads"])
    at_home = plan(every_node()).table().splitlines()[-1]
    assert at_home.startswith(f"seconds of {shipped['processor']}")
    assert "never checked on this machine: torusformer calibrate does" in at_home
    monkeypatch.setattr(timings_module, "processor", lambda: "Abacus")
    found = plan(every_node())
    assert "torusformer calibrate" in found.table().splitlines()[-1]
    assert "Abacus" in str(found.to_json()["prices"])


def test_a_probe_scales_every_time_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings_module, "processor", lambda: "Abacus")
    listed = load_prices()
    probed = listed.scaled(1.6)
    before, after = plan(every_node(), listed), plan(every_node(), probed)
    assert after.predicted_seconds == pytest.approx(1.6 * before.predicted_seconds)
    assert after.pbs_total == before.pbs_total
    said = after.table().splitlines()[-1]
    assert said.startswith("seconds of Abacus")
    assert said.endswith("1.60 times as long after a probe here")
