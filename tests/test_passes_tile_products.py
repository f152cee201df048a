"""Products in blocks of rows: the same integers and bootstraps, fewer ciphertexts at once."""

import numpy as np
import pytest

from tests.programs import Builder
from torusformer.fhe_compile import interpret, plan
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.tile_products import CIPHERTEXT_BYTES, tile_products
from torusformer.fhe_compile.program.nodes import Concat, MatMul, Port, Program, Transpose

RNG = np.random.default_rng(0)


def product() -> Program:
    b = Builder(Port("q", (2, 4, 3), -2, 1), Port("k", (2, 5, 3), -2, 1))
    b.add(Transpose("turned", "attn", ("k",), (0, 2, 1)))
    b.add(MatMul("scores", "attn", ("q", "turned")))  # 2 * 4 * 5 * 3 terms
    return b.program("scores")


@pytest.mark.parametrize(("rows", "tiles"), [(4, 1), (3, 2), (2, 2), (1, 4), (0, 4)])
def test_blocks_of_rows(rows, tiles):
    before = product()
    limit = rows * 2 * 5 * 3 * CIPHERTEXT_BYTES
    after = tile_products(before, PassOptions(memory_limit=limit))
    assert sum(isinstance(node, MatMul) for node in after.nodes) == tiles
    x = {port.name: RNG.integers(port.lo, port.hi + 1, port.shape) for port in before.inputs}
    assert np.array_equal(interpret(after, x)["scores"], interpret(before, x)["scores"])


def test_expansion_obeys_the_limit_and_looks_nothing_up_twice():
    program = product()
    whole = plan(program)
    tiled = plan(program, memory_limit=2 * 2 * 5 * 3 * CIPHERTEXT_BYTES)
    assert any(isinstance(node, Concat) for node in tiled.expanded.nodes)
    x = {port.name: RNG.integers(port.lo, port.hi + 1, port.shape) for port in program.inputs}
    found = interpret(tiled.expanded, x)["scores"]
    assert np.array_equal(found, interpret(program, x)["scores"])
    assert tiled.pbs_total == whole.pbs_total
