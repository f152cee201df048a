"""A QONNX graph in, what ONNX Runtime computes of it out: each `Quant` written in its operators.

`q = clip(round(x / scale + zero), low, high)` and `(q - zero) * scale`, by QONNX's definition
(https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops/quant_op.md). What is divided
and rounded is kept beside the outputs: where it lies on a step of the rounding, the last bit of a
float decides, and two right readers may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from torusformer.fhe_compile.program.onnx_gate import QUANT_DOMAINS

_STEPS = {  # rounding mode -> where its steps are between whole numbers
    "ROUND": 0.5, "HALF_UP": 0.5, "HALF_DOWN": 0.5,
    "FLOOR": 0.0, "CEIL": 0.0, "UP": 0.0, "DOWN": 0.0, "ROUND_TO_ZERO": 0.0,
}  # fmt: skip
_WAYS = {  # of a magnitude, and of the number itself: operators one after the other
    "ROUND": ("Round",), "FLOOR": ("Floor",), "CEIL": ("Ceil",),
}  # fmt: skip
LATEST = 21  # opset that this ONNX Runtime knows
_NEAR = 1e-3  # of a step: far above float32's error, far below a step


class OracleError(Exception):
    """ONNX Runtime takes no such graph."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Outputs by their order, and whether a quantizer's rounding could have gone either way."""

    outputs: list[np.ndarray]
    tied: bool
    largest: float  # magnitude of any value on the way


class Oracle:
    """ONNX Runtime over one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.ModelProto.FromString(model.SerializeToString())
        self._count = len(graph.graph.output)
        self._steps = list(_written_out(graph))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_mem_reuse = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        except Exception:  # of its many kinds; exporters write newer operators under older opsets
            for opset in graph.opset_import:
                opset.version = LATEST if opset.domain in ("", "ai.onnx") else opset.version
            try:
                self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
            except Exception as error:
                raise OracleError(f"ONNX Runtime refuses the graph: {error}") from None

    def run(self, feeds: Mapping[str, np.ndarray]) -> Answers:
        """One input."""
        try:
            found: list[np.ndarray] = self._session.run(None, dict(feeds))
        except Exception as error:
            raise OracleError(f"ONNX Runtime refuses the input: {error}") from None
        kept = found[self._count :]
        tied = any(
            _near(ratio, step) for ratio, step in zip(kept, self._steps, strict=True) if ratio.size
        )
        largest = max((float(np.abs(a).max()) for a in found if a.size), default=0.0)
        return Answers(found[: self._count], tied, largest)


def _near(ratio: np.ndarray, step: float) -> bool:
    """Whether a number lies on a step, as near as float32 tells; infinite ones lie on none."""
    ratio = ratio.astype(np.float64)[np.isfinite(ratio)]
    rest = np.abs(ratio - step - np.rint(ratio - step))
    return bool((rest <= _NEAR + 1e-6 * np.abs(ratio)).any())


def _written_out(model: onnx.ModelProto) -> Iterator[float]:
    """Replace every `Quant`; the place of the steps of each, whose ratio is a new output."""
    graph = model.graph
    nodes, known = _read(graph), _constants(graph)
    graph.ClearField("node")
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.ClearField("shape")
    for place, node in enumerate(nodes):
        if node.op_type not in ("Quant", "IntQuant") or node.domain not in QUANT_DOMAINS:
            graph.node.append(node)
            graph.node[-1].name = ""  # exporters give a name twice, ONNX Runtime takes none
            continue
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        bits = _value(graph, node.input[3], known).astype(np.float64).ravel()
        if not bits.size or (bits != bits[0]).any() or not 1 <= bits[0] <= 64 or bits[0] % 1:
            raise OracleError(f"a Quant of {bits[:3]} bits")
        mode = found.get("rounding_mode", b"ROUND").decode().upper()
        if mode not in _STEPS:
            raise OracleError(f"rounding mode {mode}")
        n, signed, narrow = int(bits[0]), found.get("signed", 1), found.get("narrow", 0)
        low = -(2.0 ** (n - 1)) + bool(narrow) if signed else 0.0
        high = 2.0 ** (n - 1) - 1 if signed else 2.0**n - 1 - bool(narrow)
        writer = _Writer(graph, f"oracle.{place}")
        sign = n == 1 and bool(signed)  # as QONNX defines it
        graph.node.extend(_quant(writer, node, mode, low, high, sign))
        if node.input[0] not in known:  # of constants, both are on the grid or far from it
            graph.output.append(
                helper.make_tensor_value_info(writer.ratio, TensorProto.FLOAT, None)
            )
            yield 0.0 if sign else _STEPS[mode]


def _read(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes on which an output depends."""
    needed, found = {value.name for value in graph.output}, list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if needed & set(node.output):
            found.append(node)
            needed |= set(node.input)
    return found[::-1]


class _Writer:
    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self.graph, self.prefix, self.count = graph, prefix, 0
        self.nodes: list[onnx.NodeProto] = []
        self.ratio = ""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        name = f"{self.prefix}.{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def number(self, value: float) -> str:
        self.count += 1
        name = f"{self.prefix}.{self.count}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float64), name))
        return name


def _quant(
    w: _Writer, node: onnx.NodeProto, mode: str, low: float, high: float, sign: bool
) -> list[onnx.NodeProto]:
    x, *operands = node.input[:3]
    scale, zero = (w.op("Cast", part, to=TensorProto.FLOAT) for part in operands)
    w.ratio = w.op("Add", w.op("Div", x, scale), zero)
    wide = w.op("Cast", w.ratio, to=TensorProto.DOUBLE)
    if sign:
        above = w.op("GreaterOrEqual", wide, w.number(0.0))
        clipped = w.op("Where", above, w.number(1.0), w.number(-1.0))
    else:
        clipped = w.op("Min", w.op("Max", _rounded(w, wide, mode), w.number(low)), w.number(high))
    wide_zero, wide_scale = (w.op("Cast", part, to=TensorProto.DOUBLE) for part in (zero, scale))
    real = w.op("Mul", w.op("Sub", clipped, wide_zero), wide_scale)
    w.nodes.append(helper.make_node("Cast", [real], [node.output[0]], to=TensorProto.FLOAT))
    return w.nodes


def _rounded(w: _Writer, x: str, mode: str) -> str:
    if mode in _WAYS:
        return w.op(_WAYS[mode][0], x)
    size = w.op("Abs", x)
    if mode == "UP":
        size = w.op("Ceil", size)
    elif mode in ("DOWN", "ROUND_TO_ZERO"):
        size = w.op("Floor", size)
    elif mode == "HALF_UP":
        size = w.op("Floor", w.op("Add", size, w.number(0.5)))
    else:
        size = w.op("Ceil", w.op("Sub", size, w.number(0.5)))
    return w.op("Mul", w.op("Sign", x), size)


def _value(graph: onnx.GraphProto, name: str, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of a constant, one perhaps that nodes before compute of others."""
    if name in known:
        return known[name]
    needed, nodes = {name}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    part = helper.make_graph(nodes, "part", [], [out], list(graph.initializer))
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(part, opset_imports=opsets, ir_version=8)
    try:
        (value,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
    except Exception as error:
        raise OracleError(f"'{name}' is no constant: {error}") from None
    return np.asarray(value)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Initializers and Constant nodes, by name."""
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            value = helper.get_attribute_value(attribute)
            is_tensor = isinstance(value, TensorProto)
            found[node.output[0]] = numpy_helper.to_array(value) if is_tensor else np.array(value)
        if node.op_type in ("Quant", "IntQuant") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found
