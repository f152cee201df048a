"""A table of a table is one table."""

import numpy as np
import pytest

from fhe_compile.interpret import interpret
from fhe_compile.passes.fuse_tables import fuse_tables
from fhe_compile.program import Table
from tests.programs import Builder, Port

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
    after = fuse_tables(before)
    assert [node.name for node in after.nodes] == ["out"]
    for value in range(-2, 4):
        x = {"x": np.full((2, 3), value)}
        assert np.array_equal(interpret(before, x)["out"], interpret(after, x)["out"])


def test_a_table_with_two_readers_stays():
    b = Builder(Port("x", (2,), 0, 3))
    b.table("inner", "layer", "x", lambda n: n // 2)
    b.table("a", "layer", "inner", lambda n: n + 1)
    b.table("b", "layer", "inner", lambda n: n + 2)
    assert len(fuse_tables(b.program("a", "b")).nodes) == 3
