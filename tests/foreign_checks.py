"""Graphs of other people's operators for tests, and what a program of one has to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.qonnx_graphs import GraphMaker, runtime_outputs
from torusformer.fhe_compile import lower
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Program
from torusformer.fhe_compile.program.ports import dequantize_array, quantize_array

IMAGE = (1, 2, 6, 5)


def check(model: onnx.ModelProto, samples: int = 4, **said: Any) -> Program:
    """Each node by its runtime = the program, on samples; ranges hold."""
    program = lower(model, **said)
    (port,) = program.inputs
    kind = model.graph.input[0].type.tensor_type.elem_type
    rng = np.random.default_rng(0)
    ranges = program.ranges
    for _ in range(samples):
        x = rng.normal(0, 2, port.shape).astype(np.float32)
        if kind != TensorProto.FLOAT or said or model.graph.quantization_annotation:
            x = dequantize_array(port, rng.integers(port.lo, port.hi + 1, port.shape))
        values = interpret(program, {port.name: quantize_array(port, x)})
        for name, value in values.items():
            assert (value >= ranges[name].lo).all() and (value <= ranges[name].hi).all(), name
        for out, expected in zip(program.outputs, runtime_outputs(model, x), strict=True):
            found = dequantize_array(out, values[out.name])
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return program


def image(seed: int = 0, shape: tuple[int, ...] = IMAGE) -> tuple[GraphMaker, str]:
    g = GraphMaker(shape)
    g.rng = np.random.default_rng(seed)
    return g, g.quant("x", 0.53, 3)


def kernel(g: GraphMaker, *shape: int, scale: Any = None) -> str:
    scale = g.rng.uniform(0.2, 0.4, (shape[0], *(1 for _ in shape[1:]))) if scale is None else scale
    return g.weight(g.rng.integers(-3, 4, shape), scale)
