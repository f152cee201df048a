"""Factors that weights or table values share leave the sums."""

import numpy as np
import pytest

from tests.programs import Builder, same_outputs
from torusformer.fhe_compile.passes.common_factors import remove_common_factors
from torusformer.fhe_compile.program.nodes import Add, AddConst, Linear, Port, Program, Round, Table

RNG = np.random.default_rng(0)


def bits_read(program: Program) -> int:
    ranges = program.ranges
    return max(ranges[t.inputs[0]].span_bits for t in program.nodes if isinstance(t, Table))


def test_a_factor_of_a_column_leaves_with_the_offset_behind_it():
    b = Builder(Port("x", (2, 3), -1, 2))
    b.add(Linear("acc", "l", ("x",), np.array([[2, 3, 1], [4, -3, 0], [-2, 0, 1]])))
    b.add(AddConst("biased", "l", ("acc",), np.array([[1, 0, 2], [0, -1, 0]])))
    b.table("y", "l", "biased", lambda n: n**2 % 7)
    b.table("z", "l", "acc", lambda n: n % 5)
    before = b.program("y", "z")
    after = remove_common_factors(before)
    assert np.array_equal(after.node("acc").weight, [[1, 1, 1], [2, -1, 0], [-1, 0, 1]])
    assert bits_read(after) < bits_read(before)
    same_outputs(before, after)


@pytest.mark.parametrize("per_channel", [True, False])
def test_values_of_a_table_become_neighbours(per_channel):
    b = Builder(Port("x", (2, 3), 0, 3))
    steps = np.array([[1, 4, 7, 7], [5, 5, 2, 2], [0, -6, 0, 3]])
    values = steps.ravel() if per_channel else steps[0]
    offset = np.arange(3) * 4 if per_channel else np.array(0)
    b.add(Table("t", "l", ("x",), offset, values))
    b.add(Linear("acc", "l", ("t",), np.array([[2, 1], [-2, 0], [4, 1]])))
    b.table("y", "l", "acc", lambda n: n % 11)
    before = b.program("y")
    after = remove_common_factors(before)
    assert after.ranges["t"].hi.max() <= 3
    assert bits_read(after) < bits_read(before)
    same_outputs(before, after)


def test_sums_that_something_else_reads_keep_their_factor():
    b = Builder(Port("x", (2, 3), -1, 2))
    b.add(Linear("acc", "l", ("x",), np.array([[2, 4], [4, -2], [-2, 0]])))
    b.table("y", "l", "acc", lambda n: n % 5)
    b.add(Add("z", "l", ("acc", "y")))
    b.add(Linear("more", "l", ("x",), np.array([[2], [2], [2]])))
    b.add(Round("rounded", "l", ("more",), 1))
    b.table("w", "l", "rounded", lambda n: n % 3)
    before = b.program("z", "w")
    after = remove_common_factors(before)
    assert [type(n) for n in after.nodes] == [type(n) for n in before.nodes]
    same_outputs(before, after)
