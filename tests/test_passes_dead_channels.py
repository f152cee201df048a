"""Channels without readers, and channels that never change, are not computed."""

import numpy as np
import pytest

from tests.programs import Builder, same_outputs
from torusformer.fhe_compile import plan
from torusformer.fhe_compile.passes.dead_channels import remove_dead_channels
from torusformer.fhe_compile.program.nodes import AddConst, Concat, Linear, Port, Reshape, Table

RNG = np.random.default_rng(0)


def network(readers: np.ndarray, *, per_channel: bool = True) -> Builder:
    """x (2, 3) to 4 channels of tables to `readers` columns."""
    b = Builder(Port("x", (2, 3), -1, 2))
    b.add(Linear("acc", "up", ("x",), RNG.integers(-1, 2, (3, 4))))
    b.add(AddConst("biased", "up", ("acc",), RNG.integers(-2, 3, (2, 4))))
    lo, hi = int(b.ranges["biased"].lo.min()), int(b.ranges["biased"].hi.max())
    span = hi - lo + 1
    offset = np.arange(4) * span - lo if per_channel else np.array(-lo)
    values = RNG.integers(-2, 3, span * (4 if per_channel else 1))
    b.add(Table("act", "up", ("biased",), offset, values))
    b.add(Linear("y", "down", ("act",), readers))
    return b


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_channel_without_readers_goes(per_channel):
    before = network(np.array([[1, 2], [0, 0], [0, -1], [0, 0]]), per_channel=per_channel).program(
        "y"
    )
    after = remove_dead_channels(before)
    assert after.node("acc").weight.shape == (3, 2)
    assert [n.offset.size for n in after.nodes if n.op == "Table"] == [2 if per_channel else 1]
    assert plan(before).pbs_total == 4  # two rows of two channels
    same_outputs(before, after)


def test_a_constant_channel_is_added_in_the_clear():
    b = Builder(Port("x", (2, 3), -1, 2))
    b.add(Linear("acc", "up", ("x",), np.array([[1, 0], [1, 1], [0, -1]])))
    lo, hi = int(b.ranges["acc"].lo.min()), int(b.ranges["acc"].hi.max())
    span = hi - lo + 1
    values = np.concatenate([np.arange(span) % 3, np.full(span, 2)])
    b.add(Table("act", "up", ("acc",), np.array([-lo, span - lo]), values))
    b.add(Linear("y", "down", ("act",), np.array([[1, 1], [3, 0]])))
    after = remove_dead_channels(b.program("y"))
    assert after.node("acc").weight.shape == (3, 1)
    assert np.array_equal(after.node("y").value, [[6, 0], [6, 0]])
    same_outputs(b.program("y"), after)


def test_a_second_reader_keeps_its_channels():
    b = network(np.array([[1], [0], [0], [0]]))
    b.add(Linear("z", "other", ("act",), np.array([[0], [1], [0], [0]])))
    after = remove_dead_channels(b.program("y", "z"))
    assert after.node("acc").weight.shape == (3, 2)
    same_outputs(b.program("y", "z"), after)


def test_channels_go_through_a_concatenation():
    b = Builder(Port("x", (2, 3), -1, 2))
    b.add(Linear("p", "l", ("x",), RNG.integers(-1, 2, (3, 2))))
    b.add(Linear("q", "l", ("x",), RNG.integers(-1, 2, (3, 3))))
    b.table("tp", "l", "p", lambda n: n % 3)
    b.table("tq", "l", "q", lambda n: n % 4)
    b.add(Concat("both", "l", ("tp", "tq"), 1))
    b.add(Linear("y", "head", ("both",), np.array([[1], [0], [0], [2], [-1]])))
    before = b.program("y")
    after = remove_dead_channels(before)
    assert after.node("p").weight.shape == (3, 1)
    assert after.node("q").weight.shape == (3, 2)
    same_outputs(before, after)


def test_what_is_reshaped_or_an_output_stays_whole():
    b = network(np.array([[1], [0], [0], [0]]))
    b.add(Reshape("flat", "other", ("act",), (8,)))
    for outputs in (("y", "flat"), ("y", "act")):
        before = b.program(*outputs)
        after = remove_dead_channels(before)
        assert after.node("acc").weight.shape == (3, 4)
        same_outputs(before, after)


def test_nothing_at_all_is_read():
    before = network(np.zeros((4, 2), np.int64)).program("y")
    same_outputs(before, remove_dead_channels(before))
