"""Tables are cut by what their columns need; every stage computes the same integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import Builder, programs, same_outputs
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.fhe_compile.passes.split_columns import cut, split_columns
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Linear,
    Port,
    Program,
    Reshape,
    Round,
    Scale,
    Table,
)

RNG = np.random.default_rng(3)
SPANS = (1, 9, 2, 1, 12, 1, 2, 1)  # the heaviest weight of each column


def uneven(*after: str) -> Builder:
    """x (2, 3) to eight columns of sums, two of them wide, a table of all, a product of that."""
    b = Builder(Port("x", (2, 3), 0, 3))
    weight = RNG.integers(-1, 2, (3, 8))
    weight[0], weight[1] = SPANS, 1
    b.add(Linear("sums", "up", ("x",), weight))
    source = "sums"
    if "biased" in after:
        b.add(AddConst("biased", "up", (source,), RNG.integers(-3, 4, (2, 8))))
        b.add(Scale("scaled", "up", ("biased",), RNG.choice([-1, 1, 2], 8)))
        source = b.add(Round("rounded", "up", ("scaled",), 1))
    if "added" in after:
        b.add(Linear("other", "up", ("x",), RNG.integers(-1, 2, (3, 8))))
        source = b.add(Add("added", "up", (source, "other")))
    if "reshaped" in after:
        b.add(Reshape("reshaped", "up", (source,), (1, 2, 8)))
        source = "reshaped"
    b.table("act", "up", source, lambda n: n % 5)
    b.add(Linear("y", "down", ("act",), RNG.integers(-2, 3, (8, 3))))
    return b


@pytest.mark.parametrize("after", [(), ("biased",), ("added",), ("biased", "added"), ("reshaped",)])
def test_columns_are_read_as_wide_as_they_need(after: tuple[str, ...]) -> None:
    before = uneven(*after).program("y")
    found = split_columns(before)
    tables = [node for node in found.nodes if isinstance(node, Table)]
    assert len(tables) > 1
    same_outputs(before, found)
    whole, apart = plan(before, without=["split_columns"]), plan(before)
    assert apart.predicted_seconds < whole.predicted_seconds
    rows = [
        [row for row in made.rows if row.tag.startswith("up.act") and row.op == "table"]
        for made in (whole, apart)
    ]
    assert [sum(row.pbs for row in each if row.bits > 2) for each in rows] == [16, 16]
    assert min(row.bits for row in rows[1]) < max(row.bits for row in rows[0])


def test_who_does_not_multiply_gets_columns_in_their_places() -> None:
    b = uneven()
    b.add(Reshape("flat", "other", ("act",), (16,)))
    b.table("again", "other", "flat", lambda n: n + 1)
    before = b.program("y", "again")
    found = split_columns(before)
    assert found.node("act").op == "Linear"
    same_outputs(before, found)


def test_tables_behind_each_other_are_all_cut() -> None:
    b = uneven()
    b.add(Linear("wide", "next", ("act",), RNG.integers(-1, 2, (8, 8)) + np.array(SPANS)))
    b.table("more", "next", "wide", lambda n: n % 3)
    b.add(Linear("z", "last", ("more",), RNG.integers(-2, 3, (8, 2))))
    before = b.program("y", "z")
    groups = {name: [np.array([1, 4]), np.array([7, 0, 2, 3, 5, 6])] for name in ("act", "more")}
    found = cut(before, groups)
    assert sum(isinstance(node, Table) for node in found.nodes) == 4
    assert not any(node.name in ("act", "more") for node in found.nodes)
    same_outputs(before, found)


def test_even_columns_outputs_and_few_columns_stay_whole() -> None:
    even = Builder(Port("x", (1, 4), 0, 3))
    even.add(Linear("sums", "up", ("x",), np.full((4, 6), 2)))
    even.table("act", "up", "sums", lambda n: n % 5)
    even.add(Linear("y", "down", ("act",), np.ones((6, 1), np.int64)))
    few = Builder(Port("x", (1, 2), 0, 31))
    few.add(Linear("sums", "up", ("x",), np.array([[1, 0], [0, 9]])))
    few.table("act", "up", "sums", lambda n: n % 3)
    few.add(Linear("y", "down", ("act",), np.ones((2, 1), np.int64)))
    left = uneven().program("y", "act")
    for program in (even.program("y"), few.program("y"), left):
        assert split_columns(program) is program


def test_keys_of_gigabytes_are_not_added() -> None:
    """Tables of eight bits beside some of nine stay with them."""
    b = Builder(Port("x", (1, 1), 0, 1))
    b.add(Linear("sums", "up", ("x",), np.array([[500, 250, 250, 250, 250, 250]])))
    b.table("act", "up", "sums", lambda n: (n // 7) % 5)
    b.add(Linear("y", "down", ("act",), np.ones((6, 1), np.int64)))
    assert split_columns(b.program("y")).node("act").op == "Table"


@settings(max_examples=25, deadline=None, derandomize=True)
@given(programs(), st.integers(0, 10_000))
def test_any_cut_of_any_program_computes_the_same(program: Program, seed: int) -> None:
    rng, groups = np.random.default_rng(seed), {}
    for node in program.nodes:
        columns = (program.ranges[node.name].shape or (1,))[-1]
        if isinstance(node, Table) and columns > 1:
            order = rng.permutation(columns)
            groups[node.name] = np.split(order, [int(rng.integers(1, columns))])
    found = cut(program, groups)
    same_outputs(program, found)


def test_decrypted_is_what_was_computed_before() -> None:
    b = Builder(Port("x", (1, 2), 0, 3))
    b.add(Linear("sums", "up", ("x",), np.array([[1, 4, 1, 0, 1], [0, 3, 1, 1, 0]])))
    b.table("act", "up", "sums", lambda n: (n * n) % 3)
    b.add(Linear("y", "down", ("act",), np.array([[1], [2], [-1], [1], [1]])))
    program = b.program("y")
    assert len(plan(program).pbs_by_bit_width) == 2
    circuit = compile_program(program)
    circuit.keygen()
    for value in ([0, 0], [3, 1], [3, 3]):
        x = {"x": np.array([value])}
        expected = interpret(program, x)["y"]
        assert np.array_equal(circuit.graph(x)["y"], expected)
        for mode in ("simulate", "execute"):
            assert np.array_equal(circuit.run(x, fhe=mode)["y"], expected), mode
