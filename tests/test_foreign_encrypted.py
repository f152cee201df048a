"""What foreign operators become, decrypted: a convolution, a maximum and a mean of windows."""

from __future__ import annotations

import numpy as np

from tests.qonnx_graphs import GraphMaker
from torusformer.fhe_compile import compile_program, lower
from torusformer.fhe_compile.program.nodes import IntArray


def test_a_decrypted_convolution_and_its_pools_are_exact() -> None:
    rng = np.random.default_rng(0)
    g = GraphMaker((1, 1, 4, 4))
    x = g.quant("x", 1.0, 2, signed=0)
    kernel = g.weight(rng.integers(0, 2, (2, 1, 2, 2)))
    made = g.op("Conv", x, kernel, strides=[1, 1], pads=[0, 0, 1, 1])
    narrow = g.quant(g.op("Relu", made), 2.0, 2, signed=0)
    largest = g.op("MaxPool", narrow, kernel_shape=[2, 2], strides=[2, 2])
    mean = g.op("AveragePool", narrow, kernel_shape=[2, 2], strides=[2, 2])
    program = lower(g.model(g.quant(largest, 2.0, 2, signed=0), g.quant(mean, 1.0, 3, signed=0)))
    circuit = compile_program(program)
    answers: list[list[IntArray]] = []
    for sample in rng.integers(0, 4, (2, 1, 1, 4, 4)):
        expected = circuit.run(sample, fhe="disable")
        found = circuit.run(sample, fhe="execute")
        assert all(np.array_equal(found[name], y) for name, y in expected.items())
        answers.append(list(expected.values()))
    assert any(not np.array_equal(a, b) for a, b in zip(*answers, strict=True))
