"""Random small QONNX graphs: the program gives the float graph's numbers."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.qonnx_graphs import GraphMaker
from tests.test_ingest import check

# Scales without common factors, so that no value falls on a rounding tie.
SCALES = (0.313, 0.477, 0.529, 0.761, 0.917)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """A chain of quantized blocks over a (1, tokens, width) tensor."""
    tokens, width = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    g = GraphMaker((1, tokens, width))
    x = g.quant("x", 0.5, draw(st.integers(2, 3)))

    def quant(y: str, bits: int = 3, signed: bool = True) -> str:
        return g.quant(y, draw(st.sampled_from(SCALES)), bits, signed=signed)

    def linear(y: str) -> str:
        scale = rng.uniform(0.2, 0.4, width) if draw(st.booleans()) else 0.271
        y = g.op("MatMul", y, g.weight(rng.integers(-2, 3, (width, width)), scale))
        return g.op("Add", y, g.const(rng.normal(0, 0.5, width)))

    for block in draw(
        st.lists(
            st.sampled_from(["mlp", "residual", "product", "gate", "mean", "split", "packed"]),
            min_size=1,
            max_size=3,
        )
    ):
        match block:
            case "mlp":
                kind = draw(st.sampled_from(["Relu", "Tanh", "Sigmoid", "Exp", "Abs", "Softplus"]))
                x = quant(g.op(kind, linear(x)))
            case "residual":
                scale = draw(st.sampled_from(SCALES))
                x = g.quant(g.op("Add", g.quant(x, scale), g.quant(linear(x), scale)), 0.613)
            case "product":
                y = g.op("Transpose", quant(linear(x)), perm=[0, 2, 1])
                x = quant(g.op("MatMul", quant(g.op("MatMul", x, y)), x))
            case "gate":
                x = quant(g.op("Mul", quant(g.op("Sigmoid", linear(x)), 3, False), x))
            case "mean":
                mean = quant(g.op("ReduceMean", x, axes=[-1], keepdims=1))
                x = quant(
                    g.op("Add", g.op("Mul", mean, g.const(rng.uniform(1, 2, width))), g.const(0.1))
                )
            case "split":
                first = g.op("Slice", x, *(g.const(v, np.int64) for v in ([0], [1], [2])))
                rest = g.op("Slice", x, *(g.const(v, np.int64) for v in ([1], [99], [2])))
                x = quant(g.op("Concat", rest, first, axis=2))
            case "packed":
                other = quant(linear(x), 3)
                x = quant(g.op("Max", g.op("Mul", x, g.const(0.83)), other))
    return g.model(x)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs())
def test_random_graphs(model: onnx.ModelProto) -> None:
    check(model, samples=4)
