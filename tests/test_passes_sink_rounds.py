"""Roundings move down to the tables that read them."""

import numpy as np
import pytest

from tests.programs import Builder, Port, random_inputs
from torusformer.fhe_compile.passes.sink_rounds import sink_rounds
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import (
    AddConst,
    Broadcast,
    Concat,
    Reshape,
    Round,
    Slice,
    Sum,
    Transpose,
)


def sunk(*nodes, table=True):
    b = Builder(Port("x", (2, 3), -20, 30))
    for node in nodes:
        b.add(node)
    last = nodes[-1].name
    if table:
        last = b.table("out", "layer", last, lambda n: n % 5)
    before = b.program(last)
    after = sink_rounds(before)
    for extreme in ("", "lo", "hi"):
        inputs = random_inputs(before, np.random.default_rng(0), extreme)
        assert np.array_equal(interpret(before, inputs)[last], interpret(after, inputs)[last])
    used = {name for node in after.nodes for name in node.inputs} | {last}
    return [node.op for node in after.nodes if node.name in used]


ROUND = Round("r", "layer", ("x",), 2)


def test_a_rounding_of_a_rounding_is_one():
    assert sunk(ROUND, Round("s", "layer", ("r",), 1)) == ["Round", "Table"]


def test_an_addition_moves_before_it():
    add = AddConst("a", "layer", ("r",), np.array([1, -3, 0]))
    assert sunk(ROUND, add) == ["AddConst", "Round", "Table"]
    again = Round("s", "layer", ("a",), 1)
    assert sunk(ROUND, add, again) == ["AddConst", "Round", "Table"]


@pytest.mark.parametrize(
    "node",
    [
        Reshape("m", "layer", ("r",), (3, 2)),
        Transpose("m", "layer", ("r",), (1, 0)),
        Slice("m", "layer", ("r",), (0, 1), (2, 3), (1, 1)),
    ],
)
def test_moves_happen_before_it(node):
    assert sunk(ROUND, node) == [node.op, "Round", "Table"]


def test_concat_of_equal_roundings():
    other = Round("q", "layer", ("x",), 2)
    assert sunk(ROUND, other, Concat("m", "layer", ("r", "q"), 0))[-2:] == ["Round", "Table"]


def test_concat_of_unequal_values_gets_an_identity_table():
    ops = sunk(ROUND, Concat("m", "layer", ("r", "x"), 0))
    assert ops == ["Round", "Table", "Concat", "Table"]


def test_other_readers_get_one_identity_table():
    assert sunk(ROUND, Sum("m", "layer", ("r",), (0,), False)) == ["Round", "Table", "Sum", "Table"]
    assert sunk(ROUND, Broadcast("m", "layer", ("r",), (2, 2, 3)))[:2] == ["Round", "Table"]


def test_overlapping_slices_do_not_round_twice():
    slices = [Slice(f"m{i}", "layer", ("r",), (0, 0), (2, 2 + i), (1, 1)) for i in range(2)]
    join = Concat("j", "layer", ("m0", "m1"), 1)
    assert sunk(ROUND, *slices, join).count("Round") == 1


def test_an_output_may_be_a_rounding():
    assert sunk(ROUND, table=False) == ["Round"]
