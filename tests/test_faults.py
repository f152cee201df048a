"""Faults: as frequent as asked, one step each, and inside the table they hit."""

import numpy as np
import pytest

from tests.programs import Builder, every_node, random_inputs, random_program, same
from torusformer import InputError
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Linear, Port, Program, Round
from torusformer.fhe_compile.tfhe.faults import FaultyInterpreter
from torusformer.fhe_compile.tfhe.plan import plan


def faulty(program: Program, p_error: float, seed: int = 0) -> FaultyInterpreter:
    return FaultyInterpreter(plan(program).expanded, p_error, np.random.default_rng(seed))


def identity(size: int = 400) -> Program:
    b = Builder(Port("x", (size,), 0, 15))
    b.table("y", "layer", "x", lambda n: n)
    return b.program("y")


def test_each_fault_is_one_step() -> None:
    x = {"x": np.arange(400) % 16}
    run = faulty(identity(), 0.3).run(x)
    off = run.outputs["y"] - x["x"]
    assert set(np.unique(off)) == {-1, 0, 1}
    assert np.count_nonzero(off) == run.faults  # at the ends of the range too


def test_as_frequent_as_asked() -> None:
    run = faulty(identity(20_000), 0.1).run({"x": np.zeros(20_000, np.int64)})
    assert run.faults == pytest.approx(2000, rel=0.1)


def test_a_rounding_fails_once_for_each_bit() -> None:
    b = Builder(Port("x", (20_000,), 0, 63))
    b.add(Round("r", "layer", ("x",), 3))
    b.table("y", "layer", "r", lambda n: n)
    run = faulty(b.program("y"), 0.01).run({"x": np.full(20_000, 40)})
    assert run.faults == pytest.approx(20_000 * 0.04, rel=0.15)  # 3 bits and the table


def test_a_rounding_that_only_the_client_reads_cannot_fail() -> None:
    b = Builder(Port("x", (100,), 0, 63))
    b.add(Round("r", "layer", ("x",), 3))
    program = b.program("r")
    assert plan(program).pbs_total == 0
    assert faulty(program, 0.5).run({"x": np.full(100, 40)}).faults == 0


def test_a_channel_never_reads_the_table_of_its_neighbour() -> None:
    b = Builder(Port("x", (1, 2), 0, 3))
    b.table("first", "layer", "x", lambda n: n)
    offset, values = np.array([0, 4]), np.array([0, 0, 0, 0, 9, 9, 9, 9])
    b.nodes[-1] = type(b.nodes[-1])("first", "layer", ("x",), offset, values)
    program = Program(b.inputs, (Port("first", (1, 2), 0, 9),), tuple(b.nodes))
    interpreter = faulty(program, 0.9)
    for _ in range(50):
        assert interpreter.run({"x": np.array([[3, 0]])}).outputs["first"].tolist() == [[0, 9]]


def test_without_luck_against_it_the_integers_are_the_programs() -> None:
    program = every_node()
    inputs = random_inputs(program, np.random.default_rng(1))
    run = faulty(program, 2.0**-64).run(inputs)
    values = interpret(program, inputs)
    assert run.faults == 0
    assert same(run.outputs, {p.name: values[p.name] for p in program.outputs})


@pytest.mark.parametrize("seed", range(8))
def test_any_number_of_faults_gives_integers(seed: int) -> None:
    """Nothing reads beyond a table, whatever earlier faults have done."""
    program = random_program(seed, nodes=12, bits=4)
    interpreter = faulty(program, 0.7, seed)
    for extreme in ("", "lo", "hi"):
        inputs = random_inputs(program, np.random.default_rng(seed), extreme)
        outputs = interpreter.run(inputs).outputs
        assert outputs.keys() == {p.name for p in program.outputs}


def test_the_same_seed_gives_the_same_faults() -> None:
    x = {"x": np.arange(400) % 16}
    first, again, other = (faulty(identity(), 0.2, seed).run(x).outputs for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_p_error_is_a_probability() -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        faulty(identity(), 1.5)


def test_faults_reach_what_follows() -> None:
    b = Builder(Port("x", (1, 300), 0, 15))
    b.table("t", "layer", "x", lambda n: n)
    b.add(Linear("y", "layer", ("t",), np.ones((300, 1), np.int64)))
    run = faulty(b.program("y"), 0.5).run({"x": np.zeros((1, 300), np.int64)})
    assert run.outputs["y"].item() == run.faults > 100  # upwards all of them, from 0
