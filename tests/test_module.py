"""Functions of one module: planned together, wired, and chained on ciphertexts."""

import numpy as np
import pytest

from tests.programs import Builder
from torusformer import InputError
from torusformer.fhe_compile import interpret
from torusformer.fhe_compile.circuit.circuit import compile_module
from torusformer.fhe_compile.circuit.functions import plan_module
from torusformer.fhe_compile.program.nodes import (
    Add,
    ArgMax,
    Concat,
    Linear,
    Port,
    Program,
    Sum,
)

COUNT = 4
RNG = np.random.default_rng(0)
KEYS = RNG.integers(-2, 2, (COUNT, 2))
SCORES = RNG.integers(-1, 2, (2, COUNT))


def first() -> Program:
    """Remembers a token and names the next one."""
    b = Builder(Port("token", (1, COUNT), 0, 1, one_hot=True))
    b.add(Linear("memory0", "embed", ("token",), KEYS))
    b.table("hidden", "mlp", "memory0", lambda n: np.abs(n))
    b.add(Linear("scores", "head", ("hidden",), SCORES))
    b.add(ArgMax("next", "argmax", ("scores",)))
    return b.program("scores", "next", "memory0")


def then() -> Program:
    """The same with what was remembered."""
    b = Builder(
        Port("token", (1, COUNT), 0, 1, one_hot=True),
        Port("memory0", (1, 2), int(KEYS.min()), int(KEYS.max())),
    )
    b.add(Linear("memory1", "embed", ("token",), KEYS))
    b.add(Concat("both", "attention", ("memory1", "memory0"), 0))
    b.table("squares", "attention", "both", lambda n: n * n)
    b.add(Sum("found", "attention", ("squares",), (0,), True))
    b.table("hidden", "mlp", "found", lambda n: n // 3)
    b.add(Add("again", "mlp", ("hidden", "memory0")))
    b.table("mixed", "mlp", "again", lambda n: np.clip(n, 0, 3))
    b.add(Linear("scores", "head", ("mixed",), SCORES))
    b.add(ArgMax("next", "argmax", ("scores",)))
    return b.program("scores", "next")


PROGRAMS = {"first": first(), "then": then()}
FEEDBACK = {"next": "token"}


def token(index: int) -> dict[str, np.ndarray]:
    return {"token": np.eye(COUNT, dtype=np.int64)[[index]]}


def test_a_module_of_one_function_without_a_choice_of_ways():
    b = Builder(Port("x", (3,), -4, 3))
    b.table("halves", "half", "x", lambda n: n // 2)
    (plan,) = plan_module({"alone": b.program("halves")}).functions.values()
    assert plan.pbs_total == 3


def test_wires_join_outputs_and_inputs_by_name():
    planned = plan_module(PROGRAMS, FEEDBACK)
    found = {(w.source, w.output, w.target, w.input) for w in planned.wires}
    assert found == {
        ("first", 2, "then", 1),  # memory0
        ("first", 1, "first", 0),  # next is a token, everywhere
        ("first", 1, "then", 0),
        ("then", 1, "first", 0),
        ("then", 1, "then", 0),
    }
    memory = [planned.functions[name].encoding for name in PROGRAMS]
    assert memory[0].outputs[2].wired
    assert not memory[0].outputs[0].wired
    assert memory[0].outputs[2].base.flat[0] == memory[1].inputs[1].base.flat[0]
    assert memory[0].outputs[2].bits == memory[1].inputs[1].bits


def test_what_leaves_on_a_wire_is_a_fresh_table():
    plans = plan_module(PROGRAMS, FEEDBACK).functions
    assert plans["first"].pbs_by_layer["embed"] == 2  # memory0 is linear: looked up once more
    assert "embed" not in plans["then"].pbs_by_layer  # there it stays where it is


def test_a_wire_keeps_its_shape():
    with pytest.raises(InputError, match="'token' is given out as"):
        plan_module({"first": first()}, {"scores": "memory0", "memory0": "token"})


@pytest.fixture(scope="module")
def module():
    compiled = compile_module(PROGRAMS, FEEDBACK)
    compiled.keygen()
    return compiled


@pytest.mark.parametrize("mode", ["disable", "simulate", "execute"])
def test_each_function_alone_is_exact(module, mode):
    for index in range(COUNT):
        expected = interpret(PROGRAMS["first"], token(index))
        found = module.run("first", token(index), fhe=mode)
        assert all(np.array_equal(found[name], expected[name]) for name in found), mode


def test_functions_chained_on_ciphertexts_are_exact(module):
    """No client in between: the second token is the first one's answer."""
    start = interpret(PROGRAMS["first"], token(2))
    first, then = module.function("first"), module.function("then")
    one = first.run_encrypted(first.encrypt(token(2)))
    two = then.run_encrypted({"token": one["next"], "memory0": one["memory0"]})
    three = then.run_encrypted({"token": two["next"], "memory0": one["memory0"]})
    expected = interpret(PROGRAMS["then"], {"token": start["next"], "memory0": start["memory0"]})
    last = interpret(PROGRAMS["then"], {"token": expected["next"], "memory0": start["memory0"]})
    for found, right in ((two, expected), (three, last)):
        decrypted = then.decrypt(found)
        assert all(np.array_equal(decrypted[name], right[name]) for name in decrypted)


def test_planned_bootstraps_are_concretes(module):
    for name, function in module.functions.items():
        counted = function.statistics["programmable_bootstrap_count"]
        assert counted == function.plan.pbs_total, name
    planned = next(iter(module.functions.values())).plan.key_bytes
    assert module.key_bytes == pytest.approx(planned, rel=0.3)


def test_a_function_that_is_not_there_is_named(module):
    with pytest.raises(InputError, match="there is no function 'last', only first, then"):
        module.run("last", token(0))
