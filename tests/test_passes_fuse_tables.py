"""A table of a table is one table."""

import numpy as np
import pytest

from tests.programs import Builder, Port
from torusformer.fhe_compile.passes.fuse_tables import fuse_tables
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Add, AddConst, Scale, Table

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("inner_channels", [1, 3])
@pytest.mark.parametrize("outer_channels", [1, 3])
def test_tables_compose_per_channel(inner_channels, outer_channels):
    b = Builder(Port("x", (2, 3), -2, 3))
    inner = RNG.integers(-1, 3, 6 * inner_channels)
    outer = RNG.integers(-5, 5, 4 * outer_channels)
    b.add(Table("inner", "layer", ("x",), np.arange(inner_channels) * 6 + 2, inner))
    b.add(Table("out", "layer", ("inner",), np.arange(outer_channels) * 4 + 1, outer))
    before = b.program("out")
    after = fuse_tables(before, PassOptions())
    assert [node.name for node in after.nodes] == ["out"]
    for value in range(-2, 4):
        x = {"x": np.full((2, 3), value)}
        assert np.array_equal(interpret(before, x)["out"], interpret(after, x)["out"])


def test_what_is_scaled_and_shifted_in_between_is_taken_in():
    b = Builder(Port("x", (2, 3), -2, 3))
    b.table("inner", "layer", "x", lambda n: n // 2)
    b.add(Scale("scaled", "layer", ("inner",), np.array([1, -2, 3])))
    b.add(AddConst("shifted", "layer", ("scaled",), np.array([[1, 0, 5], [0, 2, 0]])))
    b.table("out", "layer", "shifted", lambda n: n**2)
    before = b.program("out")
    after = fuse_tables(before, PassOptions())
    assert [node.name for node in after.nodes] == ["out"]
    for value in range(-2, 4):
        x = {"x": np.full((2, 3), value)}
        assert np.array_equal(interpret(before, x)["out"], interpret(after, x)["out"])


def test_three_tables_become_two_where_all_readers_are_tables():
    b = Builder(Port("x", (2,), 0, 3))
    b.table("inner", "layer", "x", lambda n: n // 2)
    b.table("a", "layer", "inner", lambda n: n + 1)
    b.table("b", "layer", "inner", lambda n: 3 * n + 2)
    before = b.program("a", "b")
    after = fuse_tables(before, PassOptions())
    assert [node.name for node in after.nodes] == ["a", "b"]
    for value in range(4):
        x = {"x": np.full(2, value)}
        for name in "ab":
            assert np.array_equal(interpret(before, x)[name], interpret(after, x)[name])


def test_a_narrow_result_with_several_readers_is_kept():
    b = Builder(Port("x", (2,), 0, 63))
    b.table("inner", "layer", "x", lambda n: n // 32)
    b.table("a", "layer", "inner", lambda n: n + 1)
    b.table("b", "layer", "inner", lambda n: n + 2)
    assert len(fuse_tables(b.program("a", "b"), PassOptions()).nodes) == 3


def test_a_table_that_is_also_added_stays():
    b = Builder(Port("x", (2,), 0, 3))
    b.table("inner", "layer", "x", lambda n: n // 2)
    b.table("a", "layer", "inner", lambda n: n + 1)
    b.add(Add("b", "layer", ("inner", "x")))
    b.add(Scale("c", "layer", ("inner",), np.array(2)))
    b.table("d", "layer", "c", lambda n: n + 1)
    assert len(fuse_tables(b.program("a", "b", "c", "d"), PassOptions()).nodes) == 5
