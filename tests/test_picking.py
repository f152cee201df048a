"""How the next token is picked: window, noise, ties, and under encryption."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoders import program
from tests.programs import Builder
from torusformer import InputError
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.fhe_compile.decoding.picking import (
    GREEDY,
    WINDOW_KEY,
    comparable,
    draw_noise,
    noise_port,
    window_for,
    window_of,
    window_to_json,
    with_picking,
)
from torusformer.fhe_compile.program.nodes import Linear, Port, Program

COUNT, STEP = 5, 0.1
COARSE = 0.5  # of which a ring holds enough


def scored(step: float = STEP) -> Program:
    """Logits that are wide sums of two narrow numbers, and a pick of the largest."""
    made = unpicked(step)
    (port,) = made.outputs
    return with_picking(made.replace(metadata={WINDOW_KEY: window_to_json(window_for(port, 8))}))


def unpicked(step: float = STEP) -> Program:
    """The same, without the pick."""
    b = Builder(Port("x", (1, 2), 0, 3))
    weight = np.array([[40, -40, 7, 3, 0], [-35, 8, 9, 9, 1]])
    b.add(Linear("logits", "head", ("x",), weight))
    made = b.program("logits")
    (port,) = made.outputs
    biases = np.array([0, 2, -1, 0, 30])  # of a head, in whole steps
    return made.replace(
        outputs=(Port("logits", port.shape, port.lo, port.hi, np.array(step), -biases * 1.0),)
    )


@given(st.sampled_from([STEP, COARSE]), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1000))
def test_the_program_picks_what_the_window_picks(step: float, a: int, b: int, seed: int):
    made, (port,) = scored(step), unpicked(step).outputs
    noise = draw_noise(noise_port(port), 1.0, np.random.default_rng(seed))
    values = interpret(made, {"x": np.array([[a, b]]), "noise": noise})
    window = window_of(made.metadata)
    assert values["next"].argmax() == window.pick(comparable(port, values["logits"]), noise)
    assert values["next"].sum() == 1


def test_logits_stay_where_the_token_is_picked():
    assert [port.name for port in scored().outputs] == ["next"]


@pytest.mark.parametrize("step", [0.32, COARSE, 0.8])
def test_a_ring_tells_levels_of_the_window_and_lets_nothing_below_it_win(step: float):
    window = window_for(Port("logits", (1, 2), -200, 200, np.array(step)))
    assert window.levels == 8 and 20 <= window.ring * step < 40
    n = np.arange(window.top - window.ring, window.top)
    levels = window.read(n)
    assert (levels[n < window.floor] <= 0).all()
    inside = levels[n >= window.floor]
    assert inside[0] == 0 and inside[-1] == 7
    assert set(np.diff(inside)) <= ({0, 1} if step < COARSE else {0, 1, 2})
    assert (window.read(n + window.ring) == levels).all()
    assert (window.read(n + window.ring // 2) == -levels).all()
    assert window.top * step > 6.4  # the highest logit and the largest noise


def test_fine_units_have_no_ring():
    assert window_for(Port("logits", (1, 2), -200, 200, np.array(STEP))).ring == 0


def test_a_ring_is_one_table():
    """Sums of any width, five bits: nothing is rounded."""
    rows = plan(scored(COARSE)).rows
    read = [row for row in rows if row.tag == "argmax.next.level"]
    assert [(row.bits, row.wraps) for row in read] == [(5, True)], [row.tag for row in rows]
    assert not any(row.lsbs for row in rows)


def test_a_window_holds_what_can_be_largest():
    (port,) = unpicked().outputs
    window = window_for(port)
    nats = (window.floor + np.array([0, window.levels << window.lsbs])) * STEP
    assert nats[0] == pytest.approx(-2.0)
    assert nats[1] >= 3.7


def test_greedy_is_one_shift_for_all():
    port = noise_port(unpicked().outputs[0])
    assert np.unique(draw_noise(port, 0.0)).tolist() == [round(GREEDY / STEP)]


def test_noise_draws_as_the_softmax_would():
    """Of logits at temperature 1, tokens come as often as their probabilities say."""
    p = np.array([0.6, 0.3, 0.08, 0.02])
    logits = Port("logits", (1, 4), -100, 100, np.array(0.05))
    window, generator = window_for(logits, 64), np.random.default_rng(0)
    q = np.rint(np.log(p) / 0.05).astype(np.int64)[None]
    port, count = noise_port(logits), 4000
    found = np.bincount(
        [window.pick(q, draw_noise(port, 1.0, generator)) for _ in range(count)], minlength=4
    )
    assert np.abs(found / count - p).max() < 0.03


@pytest.mark.parametrize("temperature", [-0.1, 2.5, float("nan")])
def test_a_temperature_out_of_reach_is_refused(temperature: float):
    with pytest.raises(InputError, match="temperature is"):
        draw_noise(noise_port(unpicked().outputs[0]), temperature)


def test_of_logits_on_several_grids_none_is_picked():
    made = program("tiny-words").steps[0]
    ports = (replace(made.outputs[0], zero_point=np.linspace(0, 1, 27)), *made.outputs[1:])
    with pytest.raises(InputError, match="logits on several grids"):
        with_picking(made.replace(outputs=ports))


def test_without_logits_none_is_picked():
    with pytest.raises(InputError, match="no output 'logits'"):
        with_picking(program("tiny-words").functions["absorb0"])


@pytest.mark.parametrize("step", [STEP, COARSE])
def test_a_decrypted_choice_is_exact(step: float):
    made = scored(step)
    circuit = compile_program(made)
    circuit.keygen()
    port, generator = noise_port(unpicked(step).outputs[0]), np.random.default_rng(1)
    for x in ([0, 3], [2, 1]):
        inputs = {"x": np.array([x]), "noise": draw_noise(port, 1.0, generator)}
        expected = interpret(made, inputs)
        for mode in ("simulate", "execute"):
            found = circuit.run(inputs, fhe=mode)
            assert all(np.array_equal(found[name], expected[name]) for name in found), mode
