"""Sample inputs in, the value of every tensor of a graph on all of them out.

Nodes are computed one after the other in floating point, as they come: by ONNX's reference
operators, and by QONNX's definition of `Quant`. What no sample changes is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from torusformer import InputError, LoweringError
from torusformer.fhe_compile.frontend.decompose.reader import reader
from torusformer.fhe_compile.frontend.elementwise import ELEMENTWISE
from torusformer.fhe_compile.frontend.graphs import static_shape
from torusformer.fhe_compile.frontend.symbols import Clear
from torusformer.fhe_compile.program.onnx_gate import QUANT_DOMAINS

MOST_SAMPLES = 512  # a graph is run once a sample, node by node
_LARGE = 1e30
Array = NDArray[np.generic]
_REFUSALS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError)


class Samples:
    """What each tensor is on N samples: (N, *shape), or just (*shape) for what is constant."""

    def __init__(self, graph: onnx.GraphProto, inputs: Mapping[str, Array], opset: int) -> None:
        """`inputs` as `sample_inputs` gives them."""
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.values: dict[str, Array] = dict(inputs)
        self.count = len(next(iter(self.values.values())))
        self.opset = opset
        self._quantizers = reader(onnx.GraphProto())
        self._kept: tuple[str, ReferenceEvaluator] | None = None

    def of(self, name: str) -> NDArray[np.float64]:
        """All numbers that a tensor takes, (N, *shape) or, of a constant, (1, *shape)."""
        array = self.values[name] if name in self.values else self.constants[name][None]
        return np.asarray(array, np.float64)

    def run(self, node: onnx.NodeProto) -> None:
        """Compute one node; its operands are there.

        Raises:
            LoweringError: ONNX's reference does not have it, or not of these operands.
        """
        given = [name for name in node.input if name]
        varying = [name for name in given if name in self.values]
        try:
            with np.errstate(all="ignore"):
                if not varying:
                    results = self._once(node, {n: self.constants[n] for n in given})
                    self.constants.update(zip(node.output, results, strict=False))
                elif self._at_once(node, varying):
                    results = self._once(node, {n: self._any(n) for n in given})
                    self.values.update(zip(node.output, results, strict=False))
                else:
                    self._one_by_one(node, given)
        except LoweringError:
            raise
        except (*_REFUSALS, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise LoweringError(
                f"{node.op_type} cannot be computed on the samples ({reason})"
            ) from None

    def _any(self, name: str) -> Array:
        return self.values[name] if name in self.values else self.constants[name]

    def _at_once(self, node: onnx.NodeProto, varying: list[str]) -> bool:
        """Whether an axis of samples in front changes nothing of what the node means."""
        plain = node.op_type in ELEMENTWISE or node.op_type == "MatMul" or _is_quant(node)
        rank = {self.values[name].ndim for name in varying}
        least = 3 if node.op_type == "MatMul" else 1
        fits = [self.constants[n].ndim < max(rank) for n in node.input if n in self.constants]
        return plain and len(rank) == 1 and max(rank) >= least and all(fits)

    def _one_by_one(self, node: onnx.NodeProto, given: list[str]) -> None:
        rows = [
            self._once(
                node,
                {n: self.values[n][i] if n in self.values else self.constants[n] for n in given},
            )
            for i in range(self.count)
        ]
        for output, column in zip(node.output, zip(*rows, strict=True), strict=False):
            self.values[output] = np.stack(column)

    def _once(self, node: onnx.NodeProto, feeds: Mapping[str, Array]) -> list[Array]:
        if _is_quant(node):
            # A score behind a mask is infinite, a row that sees nothing is no number.
            arrays = [_finite(feeds[name]) for name in node.input]
            (found,) = self._quantizers.evaluate("", node, [Clear(array) for array in arrays])
            assert isinstance(found, Clear), "constants give a constant"
            return [found.value]
        return [np.asarray(r) for r in self._operator(node).run(None, dict(feeds))]

    def _operator(self, node: onnx.NodeProto) -> ReferenceEvaluator:
        key = node.output[0]
        if self._kept is None or self._kept[0] != key:
            kind = onnx.TensorProto.UNDEFINED
            ins, outs = (
                [helper.make_tensor_value_info(n, kind, None) for n in dict.fromkeys(names) if n]
                for names in (node.input, node.output)
            )
            opset = max(self.opset, 20 if node.op_type == "Gelu" else 0)
            graph = helper.make_graph([node], "op", ins, outs)
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
            self._kept = key, ReferenceEvaluator(model)
        return self._kept[1]


def _finite(array: Array) -> NDArray[np.float32]:
    return np.clip(np.nan_to_num(np.asarray(array, np.float32)), -_LARGE, _LARGE)


def _is_quant(node: onnx.NodeProto) -> bool:
    return node.domain in QUANT_DOMAINS


def sample_inputs(
    graph: onnx.GraphProto, given: Array | Mapping[str, Array]
) -> dict[str, NDArray[np.generic]]:
    """Samples by the name of the graph input, each (N, *its shape); at most `MOST_SAMPLES`.

    A graph of one input also takes the bare array, one called x, or the only one there is. Of more
    samples some are taken, evenly spread.

    Raises:
        InputError: an input lacks its samples, or they have another shape, or are no numbers.
    """
    constants = {t.name for t in graph.initializer}
    ports = [value for value in graph.input if value.name not in constants]
    if not isinstance(given, Mapping):
        given = {ports[0].name: given} if len(ports) == 1 else {}
    elif len(ports) == 1 and ports[0].name not in given:
        only = given.get("x", next(iter(given.values())) if len(given) == 1 else None)
        given = {} if only is None else {ports[0].name: only}
    found = {}
    for value in ports:
        shape = static_shape(value)
        if value.name not in given:
            raise InputError(
                f"the samples have no array {value.name!r}, nor x; name them as graph inputs are"
            )
        array = np.asarray(given[value.name])
        rows = shape[1:] if shape[:1] == (1,) else shape
        if array.shape[1:] not in (rows, shape) or not len(array):
            raise InputError(
                f"samples of {value.name!r} have shape {array.shape}, the graph takes "
                f"(N, {', '.join(map(str, rows))})"
            )
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise InputError(f"samples of {value.name!r} are not all numbers; mend them")
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        picked = np.unique(np.linspace(0, len(array) - 1, min(len(array), MOST_SAMPLES)).round())
        found[value.name] = array[picked.astype(int)].reshape(-1, *shape).astype(kind)
    counts = {name: len(rows) for name, rows in found.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"inputs differ in number of samples: {counts}")
    return found


def opset_of(model: onnx.ModelProto) -> int:
    """Of the standard operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 17)
