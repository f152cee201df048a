"""A repeated value is computed once."""

import numpy as np

from tests.programs import Builder, Port
from torusformer.fhe_compile.passes.common_values import merge_common_values
from torusformer.fhe_compile.program.nodes import Add, Round, Table


def test_equal_nodes_merge_and_their_readers_follow():
    b = Builder(Port("x", (2,), 0, 7))
    for name in ("a", "b"):
        b.add(Round(f"round_{name}", name, ("x",), 1))
        table = Table(f"table_{name}", name, (f"round_{name}",), np.array(0), np.arange(4))
        b.add(table)
    b.add(Table("other", "a", ("round_a",), np.array(0), np.arange(4) + 1))
    b.add(Add("sum", "c", ("table_a", "table_b")))
    b.add(Add("out", "c", ("sum", "other")))
    merged = merge_common_values(b.program("out"))
    assert [n.name for n in merged.nodes] == ["round_a", "table_a", "other", "sum", "out"]
    assert merged.node("sum").inputs == ("table_a", "table_a")


def test_outputs_keep_their_names():
    b = Builder(Port("x", (2,), 0, 7))
    b.add(Round("a", "layer", ("x",), 1))
    b.add(Round("b", "layer", ("x",), 1))
    assert len(merge_common_values(b.program("a", "b")).nodes) == 2
