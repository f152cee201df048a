"""Slices move to the front and take nothing away from the answer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.programs import Builder
from torusformer.fhe_compile.passes.hoist_slices import hoist_slices
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    Broadcast,
    Constant,
    Linear,
    MatMul,
    Mul,
    Node,
    Port,
    Program,
    Reshape,
    Round,
    Scale,
    Slice,
    Sub,
    Sum,
    Table,
    Transpose,
)

X = Port("x", (2, 3, 4), -2, 3)
RNG = np.random.default_rng(0)
FIRST_ROW = ((0, 1, 0), (2, 2, 4), (1, 1, 1))  # starts, ends, steps


def same(before: Program, after: Program) -> None:
    for _ in range(5):
        x = RNG.integers(-2, 4, X.shape)
        old, new = (interpret(p, {"x": x})[p.outputs[0].name] for p in (before, after))
        np.testing.assert_array_equal(old, new)


def cut_after(*nodes: Node, cut: tuple[tuple[int, ...], ...] = FIRST_ROW) -> Program:
    b = Builder(X)
    for node in nodes:
        b.add(node)
    b.add(Slice("out", "pool", (nodes[-1].name,), *cut))
    return b.program("out")


@pytest.mark.parametrize(
    "nodes",
    [
        [Table("t", "l", ("x",), np.arange(12).reshape(3, 4) % 3 + 2, np.arange(9) ** 2)],
        [AddConst("t", "l", ("x",), np.arange(4))],
        [Scale("t", "l", ("x",), np.arange(12).reshape(3, 4))],
        [Round("t", "l", ("x",), 1)],
        [Linear("t", "l", ("x",), RNG.integers(-2, 3, (4, 4)))],
        [Sum("s", "l", ("x",), (2,), True), Add("t", "l", ("x", "s"))],
        [Sum("s", "l", ("x",), (1,), True), Sub("t", "l", ("s", "x"))],
        [Sum("s", "l", ("x",), (0, 2), True), Mul("t", "l", ("x", "s"))],
        [Transpose("p", "l", ("x",), (0, 2, 1)), MatMul("q", "l", ("x", "p")),
         MatMul("t", "l", ("q", "x"))],
        [Transpose("p", "l", ("x",), (0, 2, 1)), Transpose("t", "l", ("p",), (0, 2, 1))],
        [Reshape("p", "l", ("x",), (2, 3, 2, 2)), Sum("t", "l", ("p",), (3,), False)],
        [Sum("s", "l", ("x",), (2,), True), Broadcast("t", "l", ("s",), (2, 3, 4))],
        [Slice("t", "l", ("x",), (0, 0, 1), (2, 3, 4), (1, 2, 1))],
        [Constant("c", "l", (), np.arange(24).reshape(2, 3, 4)), Add("t", "l", ("x", "c"))],
    ],
    ids=lambda nodes: "-".join(n.op for n in nodes),
)  # fmt: skip
def test_each_rule(nodes: list[Node]) -> None:
    rank_cut = FIRST_ROW
    before = cut_after(*nodes, cut=rank_cut)
    after = hoist_slices(before)
    same(before, after)
    last = after.nodes[-1]
    assert type(last) is type(nodes[-1]) or isinstance(last, Slice)
    old, new = (sum(r.lo.size for n, r in p.ranges.items() if n != "x") for p in (before, after))
    assert new < old


def test_a_reshape_that_mixes_the_cut_axis_stays_in_front() -> None:
    before = cut_after(
        Scale("s", "l", ("x",), np.array(2)),
        Reshape("t", "l", ("s",), (2, 4, 3)),
        cut=((0, 1, 0), (2, 2, 3), (1, 1, 1)),
    )
    after = hoist_slices(before)
    assert [n.op for n in after.nodes] == ["Scale", "Reshape", "Slice"]


def test_a_value_with_another_reader_is_not_computed_twice() -> None:
    b = Builder(X)
    b.add(Scale("s", "l", ("x",), np.array(3)))
    b.add(Slice("row", "l", ("s",), *FIRST_ROW))
    b.add(Sum("total", "l", ("s",), (1,), True))
    b.add(Add("out", "l", ("row", "total")))
    after = hoist_slices(b.program("out"))
    assert [n.op for n in after.nodes] == ["Scale", "Slice", "Sum", "Add"]


def test_a_residual_block_is_cut_at_its_start() -> None:
    b = Builder(X)
    b.add(Scale("stream", "l", ("x",), np.array(1)))
    b.add(Table("norm", "l", ("stream",), np.array(2), np.arange(6)))
    b.add(Linear("up", "l", ("norm",), RNG.integers(-1, 2, (4, 4))))
    b.add(Add("sum", "l", ("stream", "up")))
    b.add(Slice("out", "pool", ("sum",), *FIRST_ROW))
    before = b.program("out")
    after = hoist_slices(before)
    same(before, after)
    assert after.nodes[0].op == "Slice"
    assert sum(isinstance(n, Slice) for n in after.nodes) == 1
