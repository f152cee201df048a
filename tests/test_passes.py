"""Every pass in the list: it does something to its example, and no output changes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.programs import Builder, Port, random_inputs, random_program, same_outputs
from torusformer import InputError
from torusformer.fhe_compile import Program, interpret, plan
from torusformer.fhe_compile.circuit.circuit import Module, compile_module
from torusformer.fhe_compile.passes.expand import (
    AT_LOWERING,
    ON_WIRES,
    OPTIONAL,
    PASSES,
    Rewrite,
    expand,
)
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import (
    Add,
    AddConst,
    ArgMax,
    Concat,
    Constant,
    Linear,
    MatMul,
    Max,
    Round,
    Slice,
    Table,
)
from torusformer.fhe_compile.program.ranges import Interval

X = Port("x", (2, 4), 0, 3)
ONES = np.ones((4, 2), np.int64)


def lookups() -> Builder:
    b = Builder(X)
    b.table("t", "l", "x", lambda n: n**2 % 5)
    return b


def remove_dead_nodes() -> Program:
    b = lookups()
    b.table("dead", "l", "x", lambda n: 3 - n)
    return b.program("t")


def fold_constants() -> Program:
    b = lookups()
    b.add(Constant("c", "l", (), np.arange(8).reshape(4, 2)))
    b.add(MatMul("y", "l", ("t", "c")))
    return b.program("y")


def merge_common_values() -> Program:
    b = lookups()
    b.table("again", "l", "x", lambda n: n**2 % 5)
    b.add(Add("y", "l", ("t", "again")))
    return b.program("y")


def remove_dead_channels() -> Program:
    b = lookups()
    b.add(Linear("a", "l", ("t",), np.eye(4, dtype=np.int64)))
    b.table("u", "l", "a", lambda n: n % 4)
    b.add(Linear("y", "l", ("u",), np.array([[1, 1], [0, 0], [2, 1], [0, 0]])))
    return b.program("y")


def remove_common_factors() -> Program:
    b = Builder(X)
    b.add(Linear("a", "l", ("x",), 3 * ONES))
    b.table("y", "l", "a", lambda n: n % 7)
    return b.program("y")


def split_concats() -> Program:
    b = lookups()
    b.add(Concat("all", "l", ("t", "x"), 1))
    b.add(Linear("y", "l", ("all",), np.concatenate([ONES, ONES])))
    return b.program("y")


def split_columns() -> Program:
    """Of eight sums two are wide."""
    b = Builder(X)
    weight = np.eye(4, 8, dtype=np.int64) + np.eye(4, 8, 4, dtype=np.int64)
    weight[:, 1], weight[:, 6] = (9, 2, 1, 3), (1, 8, 3, 1)
    b.add(Linear("a", "l", ("x",), weight))
    b.table("t", "l", "a", lambda n: n % 5)
    b.add(Linear("y", "l", ("t",), np.eye(8, 2, dtype=np.int64)[[1, 0, 2, 3, 1, 4, 0, 5]]))
    return b.program("y")


def sink_rounds() -> Program:
    b = Builder(Port("x", (2, 4), 0, 15))
    b.add(Round("r", "l", ("x",), 2))
    b.add(AddConst("a", "l", ("r",), np.array(1)))
    b.table("y", "l", "a", lambda n: n % 3)
    return b.program("y")


def centre_rows() -> Program:
    b = Builder(Port("x", (2, 4), 0, 1, one_hot=True))
    b.add(Linear("y", "l", ("x",), np.array([[9, 8], [7, 8], [8, 7], [8, 9]])))
    return b.program("y")


def fuse_tables() -> Program:
    b = lookups()
    b.table("y", "l", "t", lambda n: n // 2)
    return b.program("y")


def narrow_clips() -> Program:
    b = Builder(X)
    b.add(Linear("a", "l", ("x",), 3 * ONES + np.arange(8).reshape(4, 2) // 4))
    b.table("y", "l", "a", lambda n: np.clip(n - 18, 0, 3))
    return b.program("y")


def products() -> Program:
    b = Builder(Port("x", (4, 4), 0, 3))
    b.add(MatMul("y", "l", ("x", "x")))
    return b.program("y")


def maximum() -> Program:
    b = lookups()
    b.add(Max("y", "l", ("t", "x")))
    return b.program("y")


def argmax() -> Program:
    b = lookups()
    b.add(ArgMax("y", "l", ("t",)))
    return b.program("y")


def selected() -> Program:
    """A query that a token selects meets a key."""
    b = Builder(Port("token", (1, 4), 0, 1, one_hot=True), Port("key", (1, 2), 0, 1))
    b.add(Linear("query", "l", ("token",), np.array([[0, 1], [1, 1], [2, 0], [1, 2]])))
    b.add(Add("pair", "l", ("query", "key")))
    b.table("y", "l", "pair", lambda n: n % 2)
    return b.program("y")


def wide_outputs() -> Program:
    b = Builder(Port("x", (1, 200), 0, 15))
    b.table("t", "l", "x", lambda n: n // 8)
    b.add(Linear("a", "l", ("x",), np.eye(200, 4, dtype=np.int64)))
    b.table("u", "l", "a", lambda n: n % 4)
    b.add(Linear("y", "l", ("u",), np.full((4, 2), 40)))
    return b.program("y", "t")


def wide_and_narrow() -> Program:
    """Hidden units that logits and another layer read."""
    b = Builder(Port("x", (1, 200), 0, 15))
    b.table("t", "l", "x", lambda n: n // 8)
    b.add(Linear("a", "l", ("t",), np.eye(200, 4, dtype=np.int64)))
    b.table("u", "l", "a", lambda n: n)
    b.add(Linear("y", "l", ("u",), np.full((4, 2), 2000)))
    b.add(Linear("c", "l", ("u",), np.eye(4, 2, dtype=np.int64)))
    b.add(Linear("d", "l", ("t",), np.eye(200, 2, dtype=np.int64)))
    b.add(Add("e", "l", ("c", "d")))
    b.table("z", "l", "e", lambda n: n % 2)
    return b.program("y", "z")


def many_channels() -> Program:
    b = Builder(Port("x", (2, 60), 0, 15))
    b.table("t", "l", "x", lambda n: n // 6)
    b.add(Linear("a", "l", ("t",), np.tile(np.array([[3, -3]]), (60, 1))))
    b.add(AddConst("logits", "l", ("a",), np.array([5, -7])))
    return b.program("logits")


def wide_sums() -> Program:
    b = Builder(Port("x", (1, 200), 0, 15))
    b.table("t", "l", "x", lambda n: n // 8)
    b.add(Linear("a", "l", ("t",), np.full((200, 2), 9)))
    b.add(Round("r", "l", ("a",), 7))
    b.table("y", "l", "r", lambda n: n)
    return b.program("y")


def hoist_slices() -> Program:
    b = lookups()
    b.add(Slice("y", "l", ("t",), (0, 0), (1, 4), (1, 1)))
    return b.program("y")


def refresh_wires() -> Program:
    b = lookups()
    b.add(Add("y", "l", ("t", "x")))
    return b.program("y")


EXAMPLES = {
    "remove_dead_nodes": remove_dead_nodes,
    "fold_constants": fold_constants,
    "merge_common_values": merge_common_values,
    "remove_dead_channels": remove_dead_channels,
    "remove_common_factors": remove_common_factors,
    "split_concats": split_concats,
    "split_columns": split_columns,
    "sink_rounds": sink_rounds,
    "centre_rows": centre_rows,
    "fuse_tables": fuse_tables,
    "tile_products": products,
    "narrow_clips": narrow_clips,
    "expand_argmax": argmax,
    "expand_max": maximum,
    "expand_products": products,
    "refresh_shared": wide_and_narrow,
    "refresh_selected": selected,
    "refresh_outputs": wide_outputs,
    "refresh_sums": wide_sums,
    "split_outputs": many_channels,
    "hoist_slices": hoist_slices,
    "refresh_wires": refresh_wires,
}
# By name, each once.
REWRITES: dict[str, Rewrite] = {each.name: each.rewrite for each in PASSES}
REWRITES |= {rewrite.__name__: rewrite for rewrite in ON_WIRES}
REWRITES |= {rewrite.__name__: lambda p, _, rewrite=rewrite: rewrite(p) for rewrite in AT_LOWERING}
OPTIONS = PassOptions(memory_limit=2**19, wired=frozenset({"y"}))


def contents(program: Program) -> list[object]:
    return [(node.name, node.inputs, node.content) for node in program.nodes]


@pytest.mark.parametrize("name", REWRITES)
def test_a_pass_changes_its_example_and_no_output(name: str) -> None:
    before = EXAMPLES[name]()
    after = REWRITES[name](before, OPTIONS)
    assert contents(after) != contents(before)
    assert [port.name for port in after.outputs] == [port.name for port in before.outputs]
    same_outputs(before, after)


@pytest.mark.parametrize("name", REWRITES)
def test_a_pass_keeps_what_is_proved(name: str) -> None:
    """Ranges proved before hold after, whatever the pass makes of the values that they are of."""
    before = EXAMPLES[name]()
    values = [interpret(before, random_inputs(before, np.random.default_rng(i))) for i in range(30)]
    seen = {n.name: np.stack([v[n.name] for v in values]) for n in before.nodes}
    proved = {name: Interval(v.min(0), v.max(0)) for name, v in seen.items()}
    after = REWRITES[name](before.replace(proved=proved), OPTIONS)
    for i in range(30):  # the same inputs, of which it was "proved"
        x = random_inputs(before, np.random.default_rng(i))
        for value, found in interpret(after, x).items():
            assert (after.ranges[value].lo <= found).all(), value
            assert (found <= after.ranges[value].hi).all(), value


@pytest.fixture(scope="module")
def rewritten() -> Module:
    """The examples after their passes, one function each, all under the same keys."""
    return compile_module({name: REWRITES[name](EXAMPLES[name](), OPTIONS) for name in REWRITES})


@pytest.mark.slow
@pytest.mark.parametrize("name", REWRITES)
def test_what_a_pass_makes_decrypts_exactly(name: str, rewritten: Module) -> None:
    before = EXAMPLES[name]()
    x = random_inputs(before, np.random.default_rng(0))
    expected, found = interpret(before, x), rewritten.function(name).run(x, fhe="execute")
    assert found.keys() == {port.name for port in before.outputs}
    assert all(np.array_equal(found[output], expected[output]) for output in found)


def test_the_pass_that_contributing_adds_is_one() -> None:
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    (diff,) = re.findall(r"```diff\n([^`]*?passes/join_constants.*?)```", text, re.DOTALL)
    lines = iter(diff.splitlines())
    parts: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("--- "):
            file = next(lines)[6:] if line == "--- /dev/null" else line[6:]
        elif line.startswith("+"):
            parts.setdefault(file, []).append(line[1:])
        else:  # what the diff says is there
            assert line[1:] in (Path(__file__).parent.parent / file).read_text()
    made, listed, example = ("\n".join(part) for part in parts.values())
    names, tests = dict[str, Any](), dict(globals())
    exec(made, names)
    before_examples, _, entry = example.partition('    "join_constants"')
    exec(before_examples, tests)
    assert entry == ": join_constants," and "Pass(join_constants, " in listed
    before = tests["join_constants"]()
    after = names["join_constants"](before, OPTIONS)
    assert contents(after) != contents(before)
    same_outputs(before, after)


# What a pass saves: bootstraps, their time, or that what its example reads is precise. Not
# `remove_dead_nodes`: encoding drops what no output reads as well, it spares the other passes.
SAVES = {
    "fold_constants": "pbs_total",
    "remove_dead_channels": "pbs_total",
    "remove_common_factors": "max_bit_width",
    "fuse_tables": "pbs_total",
    "narrow_clips": "predicted_seconds",
    "refresh_shared": "predicted_seconds",
    "refresh_outputs": "predicted_seconds",
    "split_columns": "predicted_seconds",
    "split_outputs": "predicted_seconds",
}


@pytest.mark.parametrize("name", SAVES)
def test_a_pass_is_worth_something(name: str) -> None:
    program, without = EXAMPLES[name](), {name}
    if name.startswith("refresh"):
        without = {n for n in OPTIONAL if n.startswith("refresh")} | {"split_outputs"}
    with_all, left_out = plan(program), plan(program, without=without)
    assert getattr(with_all, SAVES[name]) < getattr(left_out, SAVES[name])


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("seed", range(4))
def test_without_a_pass_the_program_computes_the_same(name: str, seed: int) -> None:
    program = random_program(seed, nodes=10, bits=3)
    for way in expand(program, PassOptions(), without={name}).values():
        same_outputs(program, way)


def test_a_misspelt_pass_does_not_pass_unnoticed() -> None:
    with pytest.raises(InputError, match="no optional pass 'fuse_table'; there are centre_rows"):
        plan(products(), without={"fuse_table"})
    with pytest.raises(InputError, match="no optional pass 'sink_rounds'"):
        plan(products(), without={"sink_rounds"})


def test_after_the_passes_only_what_tfhe_has_is_left() -> None:
    for seed in range(20):
        for way in expand(random_program(seed, nodes=12, bits=4), PassOptions()).values():
            assert not {"Mul", "MatMul", "Max", "ArgMax"} & {node.op for node in way.nodes}


def test_a_table_is_all_that_a_lookup_needs() -> None:
    (way,) = expand(lookups().program("t"), PassOptions()).values()
    assert [type(node) for node in way.nodes] == [Table]


def test_what_passes_on_as_a_ciphertext_stays_whole() -> None:
    program = many_channels()
    wired = PassOptions(wired=frozenset({"logits"}))
    assert contents(REWRITES["split_outputs"](program, wired)) == contents(program)
