"""Small QONNX graphs for tests, and a float evaluator of them that knows nothing of lowering."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class Quant(OpRun):
    """QONNX's Quant, written from its specification."""

    op_domain = "onnx.brevitas"

    def _run(  # type: ignore[override]
        self,
        x: np.ndarray,
        scale: np.ndarray,
        zero: np.ndarray,
        bits: np.ndarray,
        narrow: int = 0,
        signed: int = 1,
        rounding_mode: str = "ROUND",
    ) -> tuple[np.ndarray]:
        n = int(bits)
        if n == 1 and signed:  # as QONNX's executor does
            sign = np.where(x / scale + zero >= 0, 1, -1)
            return (((sign - zero) * scale).astype(np.float32),)
        low = (-(2 ** (n - 1)) + narrow) if signed else 0
        high = 2 ** (n - 1) - 1 if signed else 2**n - 1 - narrow
        turn = {"ROUND": np.rint, "FLOOR": np.floor, "CEIL": np.ceil}[rounding_mode]
        q = np.clip(turn(x / scale + zero), low, high)
        return (((q - zero) * scale).astype(np.float32),)


class GraphMaker:
    """Builds a QONNX graph node by node; every method returns the output's name."""

    def __init__(self, shape: tuple[int, ...], kind: int = TensorProto.FLOAT) -> None:
        self.shape, self.kind = shape, kind
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, layer: str = "net", **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [out], name=f"/{layer}/{kind}", **attributes)
        )
        return out

    def quant(
        self,
        x: str,
        scale: Any = 1.0,
        bits: int = 3,
        *,
        zero: float = 0.0,
        signed: bool = True,
        narrow: bool = False,
        rounding: str = "ROUND",
        layer: str = "net",
    ) -> str:
        return self.op(
            "Quant",
            x,
            self.const(scale),
            self.const(zero),
            self.const(bits),
            layer=layer,
            domain="onnx.brevitas",
            signed=int(signed),
            narrow=int(narrow),
            rounding_mode=rounding,
        )

    def weight(self, ints: np.ndarray, scale: Any = 0.25, bits: int = 3) -> str:
        """Quantized weights with the given integers."""
        return self.quant(self.const(ints * np.asarray(scale)), scale, bits)

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", self.kind, self.shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx.brevitas", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def float_outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """The graph's outputs in floating point."""
    return ReferenceEvaluator(model, new_ops=[Quant]).run(
        None, {"x": x if x.dtype.kind == "i" else x.astype(np.float32)}
    )
