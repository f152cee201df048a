"""Small QONNX graphs for tests, and a float evaluator of them that knows nothing of lowering."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

DOMAINS = ("onnx.brevitas", "qonnx.custom_op.general", "finn.custom_op.general")
TURN = {
    "ROUND": np.rint,
    "FLOOR": np.floor,
    "CEIL": np.ceil,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
}


_nudge = [0.0]


@contextmanager
def nudged(by: float) -> Iterator[None]:
    """Quantizers round a little above or below: where this shows, a number was at a tie."""
    _nudge.append(by)
    try:
        yield
    finally:
        _nudge.pop()


def _by(x: np.ndarray) -> np.ndarray:
    return _nudge[-1] * (1 + np.abs(x))


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
            ratio = x / scale + zero
            sign = np.where(ratio + _by(ratio) >= 0, 1, -1)
            return (((sign - zero) * scale).astype(np.float32),)
        low = (-(2 ** (n - 1)) + narrow) if signed else 0
        high = 2 ** (n - 1) - 1 if signed else 2**n - 1 - narrow
        ratio = x / scale + zero
        q = np.clip(TURN[rounding_mode.upper()](ratio + _by(ratio)), low, high)
        return (((q - zero) * scale).astype(np.float32),)


class IntQuant(Quant):
    """Its newer name."""


class BipolarQuant(OpRun):
    """The sign, 1 for zero."""

    op_domain = "onnx.brevitas"

    def _run(self, x: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray]:  # type: ignore[override]
        return (np.where(x + _by(x) >= 0, scale, -scale).astype(np.float32),)


class Trunc(OpRun):
    """Fewer bits: the older form, and that with a scale of its own."""

    op_domain = "onnx.brevitas"

    def _run(  # type: ignore[override]
        self,
        x: np.ndarray,
        scale: np.ndarray,
        zero: np.ndarray,
        bits: np.ndarray,
        *rest: np.ndarray,
        rounding_mode: str = "FLOOR",
        signed: int = 1,
        narrow: int = 0,
    ) -> tuple[np.ndarray]:
        fine = np.rint(x / scale + zero)
        n = int(rest[-1])
        if len(rest) == 1:
            q = TURN[rounding_mode.upper()](fine / 2.0 ** (int(bits) - n))
            return (((q - zero) * scale).astype(np.float32),)
        divisor = 2.0 ** np.rint(np.log2(rest[0] / scale))
        low = (-(2 ** (n - 1)) + narrow) if signed else 0
        high = 2 ** (n - 1) - 1 if signed else 2**n - 1 - narrow
        q = TURN[rounding_mode.upper()](np.clip(fine / divisor, low, high))
        return (((q - zero / divisor) * rest[0]).astype(np.float32),)


class MultiThreshold(OpRun):
    """How many thresholds of its channel, axis 1, a number reaches."""

    op_domain = "onnx.brevitas"

    def _run(  # type: ignore[override]
        self,
        x: np.ndarray,
        levels: np.ndarray,
        out_scale: float = 1.0,
        out_bias: float = 0.0,
        out_dtype: str = "",
        data_layout: str = "",
    ) -> tuple[np.ndarray]:
        last = np.moveaxis(x, 1, -1)[..., None]
        count = np.moveaxis((last + _by(last) >= levels).sum(-1), -1, 1)
        return ((out_scale * count + out_bias).astype(np.float32),)


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
        kind: str = "Quant",
        domain: str = "onnx.brevitas",
    ) -> str:
        return self.op(
            kind,
            x,
            self.const(scale),
            self.const(zero),
            self.const(bits),
            layer=layer,
            domain=domain,
            signed=int(signed),
            narrow=int(narrow),
            rounding_mode=rounding,
        )

    def weight(self, ints: np.ndarray, scale: Any = 0.25, bits: int = 3) -> str:
        """Quantized weights with the given integers."""
        return self.quant(self.const(ints * np.asarray(scale)), scale, bits)

    def model(self, *outputs: str, opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", self.kind, self.shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in DOMAINS)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def float_outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """The graph's outputs in floating point."""
    operators = [Quant, IntQuant, BipolarQuant, Trunc, MultiThreshold]
    return ReferenceEvaluator(model, new_ops=operators).run(
        None, {"x": x if x.dtype.kind == "i" else x.astype(np.float32)}
    )


def runtime_outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """The same, node by node: ONNX Runtime's operators, and those above for QONNX's."""
    (opset,) = (o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (given,) = (value for value in model.graph.input if value.name not in values)
    kind = given.type.tensor_type.elem_type
    values[given.name] = x.astype(helper.tensor_dtype_to_np_dtype(kind))
    for node in model.graph.node:
        feeds = {i: values[i] for i in node.input if i}
        own = globals().get(node.op_type) if node.domain in DOMAINS else None
        if own is not None:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            text = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
            results = own._run(None, *(values[i] for i in node.input if i), **text)
        else:
            results = _runtime(node, feeds, opset)
        values.update(zip(node.output, results, strict=True))
    return [values[value.name] for value in model.graph.output]


def _runtime(node: onnx.NodeProto, given: dict[str, np.ndarray], opset: int) -> list[np.ndarray]:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs)
    one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return _session(one.SerializeToString()).run(None, given)


@lru_cache(maxsize=256)
def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options)
