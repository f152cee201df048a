"""A second, narrow table in front of a wide sum, where that makes the first ones cheap."""

import numpy as np

from fhe_compile import compile_program, interpret, plan
from fhe_compile.expand import expand
from fhe_compile.passes.refresh import refresh_outputs
from fhe_compile.program import Linear, Port, Program, Reshape, Table
from tests.programs import Builder, same_outputs

RNG = np.random.default_rng(0)


def network(inner: int, last: int, factor: int) -> Program:
    """`inner` tables of 4 bits, then `last` of 4 bits whose results of 2 bits make wide sums."""
    b = Builder(Port("x", (1, inner), 0, 15))
    b.table("t", "first", "x", lambda n: n // 8)
    b.add(Linear("acc", "second", ("t",), np.eye(inner, last, dtype=np.int64) * 8))
    b.add(Linear("wide", "second", ("x",), np.eye(inner, last, dtype=np.int64)))
    b.table("u", "second", "wide", lambda n: n % 4)
    b.table("v", "second", "acc", lambda n: n // 3)
    b.add(Linear("a", "head", ("u",), np.full((last, 2), factor)))
    b.add(Linear("c", "head", ("v",), np.ones((last, 2), np.int64)))
    return b.program("a", "c")


def test_refreshed_values_are_the_same():
    before = network(4, 3, 5)
    after, _ = refresh_outputs(before)
    fresh = [n.name for n in after.nodes if n.name.endswith(".fresh")]
    assert fresh == ["u.fresh", "v.fresh"]
    for _ in range(10):
        x = {"x": RNG.integers(0, 16, (1, 4))}
        found, expected = interpret(after, x), interpret(before, x)
        assert all(np.array_equal(found[name], expected[name]) for name in "ac")


def test_only_where_the_plan_gets_cheaper():
    dear = network(200, 4, 40)  # 4-bit tables feed sums of 10 bits
    assert "u.fresh" in {n.name for n in expand(dear).program.nodes}
    assert plan(dear).predicted_seconds < 0.8 * without_refresh(dear)
    narrow = network(200, 4, 1)
    assert "u.fresh" not in {n.name for n in expand(narrow).program.nodes}


def test_a_table_is_seen_through_another_shape():
    b = Builder(Port("x", (1, 4), 0, 15))
    b.table("t", "first", "x", lambda n: n // 8)
    b.add(Reshape("row", "first", ("t",), (1, 2, 2)))
    b.add(Linear("y", "head", ("row",), np.full((2, 2), 100)))
    after, _ = refresh_outputs(b.program("y"))
    assert after.node("y").inputs == ("row.fresh",)
    same_outputs(b.program("y"), after)


def without_refresh(program: Program) -> float:
    from fhe_compile.cost import load_prices
    from fhe_compile.encode import encode
    from fhe_compile.plan import plan_encoded

    left_out = expand(program, without={"refresh_outputs"})
    encoding = encode(left_out.program, left_out.known)
    return plan_encoded(left_out, encoding, load_prices()).predicted_seconds


def test_refreshed_programs_decrypt_exactly():
    program = network(6, 3, 40)
    refreshed, _ = refresh_outputs(program)
    circuit = compile_program(refreshed)
    circuit.keygen()
    x = {"x": RNG.integers(0, 16, (1, 6))}
    expected = interpret(program, x)
    found = circuit.run(x, fhe="execute")
    assert all(np.array_equal(found[name], expected[name]) for name in "ac")
    assert sum(isinstance(n, Table) for n in refreshed.nodes) == 5
