"""Wide clips become two narrow tables: equal integers, fewer bits, exact when decrypted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import Builder
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.fhe_compile.passes.narrow_clips import narrow_clips
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import Linear, Port, Program

WEIGHT = np.array([[40, -40], [-35, 8], [7, 9], [2, 30]])


def clipped(function, weight: np.ndarray = WEIGHT) -> Program:
    """Wide sums of narrow numbers, clipped."""
    b = Builder(Port("x", (1, len(weight)), 0, 3))
    b.add(Linear("sums", "head", ("x",), weight))
    b.table("y", "clip", "sums", function)
    return b.program("y")


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, (count, 1, 4))


@given(st.integers(-130, 130), st.integers(1, 40), st.integers(0, 3))
def test_any_window_keeps_its_integers(start: int, size: int, drop: int):
    program = clipped(lambda n: np.clip(n - start, 0, size) >> drop)
    split = narrow_clips(program, PassOptions())
    ranges = split.ranges
    for x in inputs(20):
        found = interpret(split, {"x": x})
        assert np.array_equal(found["y"], interpret(program, {"x": x})["y"])
        for name, reach in split.proved.items():
            assert (reach.lo <= found[name]).all()
            assert (found[name] <= reach.hi).all()
            assert np.array_equal(ranges[name].hi, reach.hi)


def test_nine_bits_become_narrow_ones():
    program = clipped(lambda n: np.clip(n + 7, 0, 15))
    assert program.ranges["sums"].span_bits == 9
    tables = {row.tag: row.bits for row in plan(program).rows if row.op != "round"}
    assert {"clip.y.clipped", "clip.y"} <= tables.keys()
    assert max(tables.values()) <= 6


def test_what_is_no_clip_stays():
    program = clipped(lambda n: n % 5)
    assert narrow_clips(program, PassOptions()).nodes == program.nodes


def test_a_decrypted_step_is_exact():
    """Of two levels; a wider clip is among `test_passes.py`'s."""
    program = clipped(lambda n: (n > 3).astype(int), WEIGHT // 5)
    circuit = compile_program(program)
    assert any(node.name == "y.near" for node in circuit.plan.expanded.nodes)
    circuit.keygen()
    for x in inputs(3):
        expected = interpret(program, {"x": x})["y"]
        assert np.array_equal(circuit.graph({"x": x})["y"], expected)
        for mode in ("simulate", "execute"):
            assert np.array_equal(circuit.run({"x": x}, fhe=mode)["y"], expected), mode
