"""A second, narrow table in front of a wide sum, where that makes the first ones cheap."""

import numpy as np

from tests.programs import Builder, same_outputs
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.fhe_compile.circuit.functions import plan_module
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.refresh import refresh_outputs, refresh_selected, refresh_sums
from torusformer.fhe_compile.passes.refresh_wires import refresh_wires
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Linear,
    Port,
    Program,
    Reshape,
    Round,
    Table,
)

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
    after = refresh_outputs(before)
    fresh = [n.name for n in after.nodes if n.name.endswith(".far")]
    assert fresh == ["u.far", "v.far"]
    for _ in range(10):
        x = {"x": RNG.integers(0, 16, (1, 4))}
        found, expected = interpret(after, x), interpret(before, x)
        assert all(np.array_equal(found[name], expected[name]) for name in "ac")


def test_only_where_the_plan_gets_cheaper():
    dear = network(200, 4, 40)  # 4-bit tables feed sums of 10 bits
    assert "u.far" in {n.name for n in plan(dear).expanded.nodes}
    assert plan(dear).predicted_seconds < 0.8 * without_refresh(dear)
    narrow = network(200, 4, 1)
    assert "u.far" not in {n.name for n in plan(narrow).expanded.nodes}


def test_a_table_is_seen_through_another_shape():
    b = Builder(Port("x", (1, 4), 0, 15))
    b.table("t", "first", "x", lambda n: n // 8)
    b.add(Reshape("row", "first", ("t",), (1, 2, 2)))
    b.add(Linear("y", "head", ("row",), np.full((2, 2), 100)))
    after = refresh_outputs(b.program("y"))
    assert after.node("y").inputs == ("row.far",)
    same_outputs(b.program("y"), after)


def without_refresh(program: Program) -> float:
    return plan(
        program, without={"refresh_shared", "refresh_selected", "refresh_outputs", "refresh_sums"}
    ).predicted_seconds


def chosen() -> Program:
    """An index that selects something narrow, something wide, and a hidden unit between."""
    b = Builder(Port("token", (1, 4), 0, 1, one_hot=True))
    b.add(Linear("narrow", "key", ("token",), np.array([[0, 1], [3, 1], [2, 0], [1, 2]])))
    b.table("hidden", "mlp", "narrow", lambda n: n)
    b.add(Linear("up", "mlp", ("hidden",), np.full((2, 2), 90)))
    b.add(Linear("wide", "head", ("token",), np.array([[300, 0], [0, 70], [9, -300], [0, 1]])))
    b.add(Add("sum", "head", ("up", "wide")))
    b.add(Round("rounded", "head", ("sum",), 7))
    b.table("y", "head", "rounded", lambda n: n)
    return b.program("y")


def test_what_is_read_precisely_reads_copies_by_kind_of_reader():
    program = chosen()
    after = refresh_sums(program)
    made = {node.name: node for node in after.nodes}
    assert made["wide"].inputs == ("token.far",)
    assert made["up"].inputs == ("hidden.far",)
    assert made["narrow"].inputs == ("token",)  # not read precisely
    assert after.proved["token.far"].one_hot
    assert made["token.far"].apart
    for index in range(4):
        x = {"token": np.eye(4, dtype=np.int64)[[index]]}
        assert np.array_equal(interpret(after, x)["y"], interpret(program, x)["y"])
    assert after.ranges["wide"].hi.tolist() == [[300, 70]]


def test_a_decrypted_copy_of_an_index_is_exact():
    program = chosen()
    circuit = compile_program(program)
    circuit.keygen()
    for index in range(4):
        x = {"token": np.eye(4, dtype=np.int64)[[index]]}
        expected = interpret(program, x)["y"]
        assert np.array_equal(circuit.run(x, fhe="execute")["y"], expected)


def attending() -> Program:
    """One query of a token against keys, scores in a table; the token also makes a noisy sum."""
    keys = [Port(f"key.{i}", (1, 8), -1, 1) for i in range(30)]
    b = Builder(Port("token", (1, 27), 0, 1, one_hot=True), *keys)
    b.add(Linear("key.30", "output", ("token",), RNG.integers(-1, 2, (27, 8))))
    b.add(Linear("query", "attention", ("token",), RNG.integers(-1, 2, (27, 8))))
    for i in range(31):
        b.add(Add(f"pair.{i}", "attention", (f"key.{i}", "query")))
        b.table(f"score.{i}", "attention", f"pair.{i}", lambda n: n * n % 3)
        b.add(Add(f"moved.{i}", "attention", (f"score.{i}", "query")))
        b.table(f"weight.{i}", "attention", f"moved.{i}", lambda n: n % 2)
    up = RNG.choice([-8, -7, 7, 8], (27, 64))
    b.add(Linear("up", "mlp", ("token",), up))
    b.table("hidden", "mlp", "up", lambda n: np.where(n % 32 < 16, 1, -1))
    b.add(Linear("best", "head", ("hidden",), np.tri(64, 27, 0, int) - np.tri(64, 27, -6, int)))
    b.table("next", "head", "best", lambda n: (n > 0).astype(int))
    return b.program("key.30", *[f"weight.{i}" for i in range(31)], "next")


def test_what_an_index_selects_for_attention_is_looked_up():
    program = attending()
    after = refresh_selected(program)
    made = {node.name: node for node in after.nodes}
    for name in ("key.30", "query"):
        assert made[name].inputs == (f"{name}.selected",)
        assert isinstance(made[name], Table)
    assert made["up"].inputs == ("token",)
    same_outputs(program, after)


def test_a_module_looks_up_what_its_token_selects():
    """The token's noise makes what writes it precise, but no table of attention."""
    wires = {"next": "token", "key.30": "key.29"}
    step = plan_module({"step": attending()}, wires).functions["step"]
    assert step.expanded.node("query").inputs == ("query.selected",)
    (scores,) = {row.bits for row in step.rows if ".score." in row.tag}
    assert scores not in {dear.bits for dear in step.dear}


def test_a_wire_that_is_a_table_plus_a_number_is_not_looked_up_again():
    b = Builder(Port("x", (1, 4), 0, 7))
    b.table("t", "first", "x", lambda n: n // 4)
    b.add(AddConst("key", "first", ("t",), np.array(-1)))
    b.add(Linear("sum", "first", ("t",), np.ones((4, 2), np.int64)))
    program = b.program("key", "sum")
    after = refresh_wires(program, PassOptions(wired=frozenset({"key", "sum"})))
    assert [n.name for n in after.nodes if n.name.endswith(".stale")] == ["sum.stale"]
