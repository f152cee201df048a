"""The oracle chain: interpreter = Concrete's graph = simulation = decryption, for every node."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests.programs import Builder, every_node, programs, random_inputs, random_program, same
from torusformer import BitWidthError, InputError
from torusformer.fhe_compile.circuit.circuit import (
    Circuit,
    Module,
    compile_module,
    compile_program,
)
from torusformer.fhe_compile.circuit.concrete_options import CompileError
from torusformer.fhe_compile.circuit.trace import traced_function
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Port, Program, Reshape, Table
from torusformer.fhe_compile.tfhe.plan import plan


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return compile_program(every_node())


def outputs(program: Program, values):
    return {port.name: values[port.name] for port in program.outputs}


def run_steps(program: Program, inputs):
    """The encoded steps on numpy arrays: what Concrete traces, without Concrete."""
    encoding = plan(program).encoding
    reps = {f"input{i}": p.encode(inputs[p.port.name]) for i, p in enumerate(encoding.inputs)}
    results = traced_function(encoding)(**reps)
    results = results if isinstance(results, tuple) else (results,)
    for port, rep in zip(encoding.outputs, results, strict=False):
        assert np.min(rep) >= 0
        assert np.max(rep) < 2**port.bits
    return {p.port.name: p.decode(r) for p, r in zip(encoding.outputs, results, strict=False)}


@pytest.mark.parametrize("extreme", ["", "lo", "hi"])
@pytest.mark.parametrize("mode", ["graph", "simulate"])
def test_every_node_in_the_clear(circuit: Circuit, mode: str, extreme: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(1 if extreme else 20):
        inputs = random_inputs(circuit.program, rng, extreme)
        got = circuit.graph(inputs) if mode == "graph" else circuit.run(inputs, fhe="simulate")
        assert same(got, circuit.run(inputs, fhe="disable"))


@pytest.mark.slow
def test_every_node_encrypted(circuit: Circuit) -> None:
    rng = np.random.default_rng(1)
    for extreme in ("", "lo", "hi"):
        inputs = random_inputs(circuit.program, rng, extreme)
        assert same(circuit.run(inputs, fhe="execute"), circuit.run(inputs, fhe="disable"))


def test_planned_bootstraps_are_those_that_concrete_counts(circuit: Circuit) -> None:
    planned = {tag: n for tag, n in circuit.plan.pbs_by_tag.items() if n}
    counted = circuit.statistics["programmable_bootstrap_count_per_tag"]
    assert planned == {tag: n for tag, n in counted.items() if n}


def test_planned_keys_are_about_as_large_as_the_real_ones(circuit: Circuit) -> None:
    assert 0.5 < circuit.plan.key_bytes / circuit.key_bytes < 2
    sent = len(circuit.inner.client.evaluation_keys.serialize())
    assert circuit.key_bytes == pytest.approx(sent, rel=0.01)


@settings(max_examples=150, deadline=None)
@given(program=programs())
def test_expanded_and_encoded_give_the_same_integers(program: Program) -> None:
    rng = np.random.default_rng(0)
    expanded = plan(program).expanded
    for extreme in ("", "", "lo", "hi"):
        inputs = random_inputs(program, rng, extreme)
        expected = outputs(program, interpret(program, inputs))
        assert same(outputs(program, interpret(expanded, inputs)), expected)
        assert same(run_steps(program, inputs), expected)


@settings(max_examples=100, deadline=None)
@given(program=programs())
def test_bounds_hold_every_value(program: Program) -> None:
    rng = np.random.default_rng(0)
    for checked in (program, plan(program).expanded):
        ranges = checked.ranges
        for _ in range(5):
            for name, value in interpret(checked, random_inputs(program, rng)).items():
                assert (ranges[name].lo <= value).all()
                assert (value <= ranges[name].hi).all()


@pytest.mark.parametrize("seed", [1, 5, 12, 20, 21, 26])  # those have something to bootstrap
def test_random_programs_simulated(seed: int) -> None:
    circuit = compile_program(random_program(seed, nodes=10, bits=3), simulate=True)
    rng = np.random.default_rng(0)
    for extreme in ("", "lo", "hi"):
        inputs = random_inputs(circuit.program, rng, extreme)
        expected = circuit.run(inputs, fhe="disable")
        assert same(circuit.graph(inputs), expected)
        assert same(circuit.run(inputs, fhe="simulate"), expected)


SEEDS = (7, 25, 43, 44)  # of programs that have something to bootstrap


@pytest.fixture(scope="module")
def random_circuits() -> Module:
    """Under the same keys: those take longer than all runs."""
    return compile_module({f"seed{seed}": random_program(seed, nodes=10, bits=3) for seed in SEEDS})


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs_encrypted(seed: int, random_circuits: Module) -> None:
    circuit = random_circuits.function(f"seed{seed}")
    inputs = random_inputs(circuit.program, np.random.default_rng(0))
    assert same(circuit.run(inputs, fhe="execute"), circuit.run(inputs, fhe="disable"))
    planned = {tag: n for tag, n in circuit.plan.pbs_by_tag.items() if n}
    counted = circuit.statistics["programmable_bootstrap_count_per_tag"]
    assert planned == {tag: n for tag, n in counted.items() if n} != {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((3, 2), int), r"'x' has shape \(3, 2\), it takes \(2, 3\)"),
        (np.zeros((2, 3)), "'x' is float64, it takes integers"),
        (np.full((2, 3), np.nan), "'x' holds NaN"),
        (np.full((2, 3), 2), r"'x' holds integers in \[2, 2\], it takes \[-2, 1\]"),
        ([[1, 2], [3]], "'x' is ragged"),
    ],
)
def test_bad_input_is_named(circuit: Circuit, value, words: str) -> None:
    with pytest.raises(InputError, match=words):
        circuit.run({"x": value, "y": np.zeros((2, 2), int)}, fhe="execute")


def test_missing_and_foreign_inputs_are_named(circuit: Circuit) -> None:
    y = np.zeros((2, 2), int)
    with pytest.raises(InputError, match="'x' is missing"):
        circuit.run({"y": y})
    with pytest.raises(InputError, match="no input 'z'"):
        circuit.run({"x": np.zeros((2, 3), int), "y": y, "z": y})
    with pytest.raises(InputError, match="by name"):
        circuit.run(y)


def test_a_slice_of_a_larger_array_is_read_right(circuit: Circuit) -> None:
    rng = np.random.default_rng(2)
    inputs = random_inputs(circuit.program, rng)
    wide = np.zeros((3, 4), int)
    wide[:, ::2] = inputs["x"].T
    strided = {"x": wide[:, ::2].T, "y": inputs["y"]}
    assert same(circuit.run(strided, fhe="simulate"), circuit.run(inputs, fhe="disable"))


def test_too_wide_a_table_names_layer_bits_and_knob() -> None:
    table = Table("act", "blocks.0.mlp.up", ("x",), np.array(0), np.arange(2**17) % 5)
    ports = (Port("x", (1,), 0, 2**17 - 1),), (Port("act", (1,), 0, 4),)
    with pytest.raises(
        BitWidthError, match=r"mlp\.up: what act reads needs 17 bits, the limit is 16; lower"
    ):
        compile_program(Program(*ports, (table,)))


def test_what_a_constant_answer_does_not_read_is_neither_planned_nor_compiled() -> None:
    b = Builder(Port("x", (1, 4), -2, 1))
    b.add(Reshape("moved", "move", ("x",), (4,)))
    b.table("square", "act", "moved", lambda n: n * n)
    b.table("same", "same", "square", lambda n: np.isin(n, (0, 1, 4)))  # of any square here
    circuit = compile_program(b.program("same"), simulate=True)
    assert circuit.plan.pbs_total == 0
    for x in (-2, 1):
        inputs = {"x": np.full((1, 4), x)}
        assert circuit.run(inputs, fhe="simulate")["same"].tolist() == [1] * 4
        assert circuit.graph(inputs)["same"].tolist() == [1] * 4


@pytest.mark.parametrize("p_error", [0.0, 1.0, -1e-9, float("nan")])
def test_p_error_is_a_probability(p_error: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        compile_program(every_node(), p_error=p_error)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("NoParametersFound", r"128-bit secure parameters .* widest round is attn\.scores\.round"),
        ("something else", "refused the circuit: something else"),
    ],
)
def test_what_concrete_refuses_is_explained(monkeypatch, reason: str, words: str) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr("torusformer.fhe_compile.circuit.backend.ModuleCompiler.compile", refuse)
    with pytest.raises(CompileError, match=words):
        compile_program(every_node())
