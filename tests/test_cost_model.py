"""What the plan takes Concrete to choose is what Concrete chooses; compiles, encrypts nothing."""

import time

import pytest

from tests.programs import every_node, random_program
from torusformer.fhe_compile.circuit.calibrate import (
    calibrate,
    expected_seconds,
    prices_of,
    probe,
    samples,
)
from torusformer.fhe_compile.circuit.circuit import Circuit, compile_program
from torusformer.fhe_compile.circuit.survey import key_sizes, survey
from torusformer.fhe_compile.prices.cost import price_list
from torusformer.fhe_compile.prices.failure import EXACT, FAST
from torusformer.fhe_compile.prices.parameters import parameters_for
from torusformer.fhe_compile.prices.timings import Timings, find_timings, this_machine
from torusformer.fhe_compile.tfhe.plan import plan


def real_seconds(circuit: Circuit, timings: Timings) -> float:
    """Bootstraps of the plan, each with the parameters that Concrete gave it."""
    sizes = key_sizes(circuit)
    rows = circuit.plan.rows
    return sum(row.pbs * timings.ms(sizes[row.tag.partition(".")[2]]) for row in rows) / 1000


@pytest.mark.parametrize("p_error", [EXACT, FAST])
@pytest.mark.parametrize("seed", [None, 7, 12, 21, 25])
def test_the_right_parameters_are_foreseen(p_error: float, seed: int | None) -> None:
    program = every_node() if seed is None else random_program(seed, nodes=10, bits=4)
    shipped = find_timings()
    timings = Timings({**shipped.machine, "threads": 1}, shipped.measured)
    prices = price_list(parameters_for(p_error), timings, p_error)
    circuit = compile_program(program, p_error=p_error, simulate=True, prices=prices)
    assert circuit.plan.p_error == p_error
    assert circuit.plan.predicted_seconds == pytest.approx(real_seconds(circuit, timings), rel=0.1)
    assert 0.75 < circuit.plan.key_bytes / circuit.key_bytes < 1.25


@pytest.mark.parametrize("p_error", [EXACT, FAST])
def test_the_shipped_parameters_are_what_concrete_chooses(p_error: float) -> None:
    again, shipped = survey(p_error, (4,)), parameters_for(p_error)
    assert again.cheap[4] == shipped.cheap[4]
    assert again.precise[4] == shipped.precise[4]
    assert again.precise_from.rounding[4] == shipped.precise_from.rounding[4]
    assert again.precise_from.table[4] == shipped.precise_from.table[4]
    assert again.rounding == shipped.rounding
    assert again.rounding_precise_from == shipped.rounding_precise_from


def test_every_set_of_parameters_is_measured_once() -> None:
    chosen = samples(6)
    kinds = [(s.sizes.glwe, s.sizes.polynomial, s.sizes.level, s.sizes.keyswitch) for s in chosen]
    assert len(kinds) == len(set(kinds))
    for parameters in map(parameters_for, (EXACT, FAST)):
        for bits in range(1, 7):
            for s in (parameters.cheap[bits], parameters.precise[bits]):
                assert (s.glwe, s.polynomial, s.level, s.keyswitch) in kinds
    assert len(samples(5)) < len(chosen)
    assert 0 < expected_seconds(samples(5)) < expected_seconds(chosen)


def test_a_probe_takes_seconds_and_tells_how_slow_this_machine_is() -> None:
    start = time.monotonic()
    assert 0.05 < probe() < 50
    assert time.monotonic() - start < 60


def test_calibrate_measures_this_machine() -> None:
    done: list[int] = []
    chosen = samples(1)[:2]
    timings = calibrate(chosen, lambda: done.append(1))
    assert len(done) == 2
    assert set(timings.measured) == {s.sizes for s in chosen}  # Concrete chose what was surveyed
    cheap, precise = (timings.ms(s.sizes) for s in chosen)
    assert 0 < cheap < 1000
    assert this_machine().items() <= timings.machine.items()
    assert {"date", "p_errors", "method", "spread", "load"} <= timings.machine.keys()
    assert timings.machine["spread"] >= 1
    prices = prices_of(timings)
    assert prices["exact"].keys != prices["fast"].keys
    assert plan(every_node(), prices["fast"]).predicted_seconds > 0
    assert precise > 0
