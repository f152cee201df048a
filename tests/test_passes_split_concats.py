"""A linear layer on a concatenation is a sum of linear layers on its parts."""

import numpy as np

from tests.programs import Builder
from torusformer.fhe_compile import interpret
from torusformer.fhe_compile.passes.split_concats import split_concats
from torusformer.fhe_compile.program.nodes import Add, Concat, Linear, Port

RNG = np.random.default_rng(0)


def test_parts_are_multiplied_one_by_one():
    b = Builder(Port("x", (2, 3), -1, 2), Port("y", (2, 2), 0, 3))
    b.table("t", "l", "x", lambda n: n**2)
    b.add(Concat("all", "l", ("t", "y", "x"), 1))
    b.add(Linear("out", "l", ("all",), RNG.integers(-2, 3, (8, 2))))
    before = b.program("out")
    after = split_concats(before)
    assert [type(n) for n in after.nodes[2:]] == [Linear, Linear, Add, Linear, Add]
    for _ in range(10):
        x = {p.name: RNG.integers(p.lo, p.hi + 1, p.shape) for p in before.inputs}
        assert np.array_equal(interpret(after, x)["out"], interpret(before, x)["out"])


def test_rows_joined_below_each_other_stay():
    b = Builder(Port("x", (2, 3), -1, 2))
    b.add(Concat("all", "l", ("x", "x"), 0))
    b.add(Linear("out", "l", ("all",), RNG.integers(-2, 3, (3, 2))))
    assert len(split_concats(b.program("out")).nodes) == 2
