"""QONNX graph and samples in, the same graph with a quantizer behind each input that lacks one out.

A model that was trained on real inputs is compiled that way: its client sends `n_bits` a number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from torusformer import InputError
from torusformer.fhe_compile.program.onnx_gate import QUANT_DOMAINS

_QUANTIZES = frozenset({"BipolarQuant", "IntQuant", "Quant"})
_MOVES = frozenset({
    "Cast", "Dropout", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
_SCALES = frozenset({"Add", "Div", "Mul", "Sub"})  # by one number, which the client does as well


def unquantized_inputs(graph: onnx.GraphProto) -> list[str]:
    """Graph inputs of real numbers that something else than a quantizer reads."""
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}

    def is_number(name: str) -> bool:
        if name in constants:
            return int(np.prod(constants[name])) == 1
        node = made.get(name)
        return node is not None and node.op_type == "Constant" and _is_scalar(node)

    def reaches_more_than_a_quantizer(name: str) -> bool:
        carried = {name}
        for node in graph.node:
            if not carried.intersection(node.input) or node.op_type in _QUANTIZES:
                continue
            by_number = node.op_type in _SCALES and any(is_number(n) for n in node.input)
            if not (node.op_type in _MOVES or by_number):
                return True
            carried.update(node.output)
        return False

    floats = [
        value.name
        for value in graph.input
        if value.name not in constants
        and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    return [name for name in floats if reaches_more_than_a_quantizer(name)]


def _is_scalar(node: onnx.NodeProto) -> bool:
    return all(not a.HasField("t") or int(np.prod(a.t.dims)) == 1 for a in node.attribute)


def quantize_inputs(
    model: onnx.ModelProto, samples: Mapping[str, NDArray[np.floating]], n_bits: int
) -> onnx.ModelProto:
    """A copy in which inputs are quantized at `n_bits`, by one scale each, from its `samples`.

    The largest magnitude of the samples is the largest integer; what is beyond is clipped. Of
    numbers that are never negative the integers are not either.
    """
    if not 1 <= n_bits <= 16:
        raise InputError(f"n_bits is {n_bits}; inputs take 1 to 16 bits, 2 to 8 are common")
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    for name, x in samples.items():
        largest = float(np.abs(x).max(initial=0.0))
        if not np.isfinite(largest) or not largest:
            raise InputError(f"the samples of input {name!r} are all zero, or not finite")
        signed = bool((x < 0).any())
        if signed and n_bits == 1:
            raise InputError(f"input {name!r} has negative samples, which take n_bits of 2 or more")
        scale = np.float32(largest / (2 ** (n_bits - signed) - 1))
        quantized = f"{name}.quantized"
        for node in graph.node:
            node.input[:] = [quantized if i == name else i for i in node.input]
        parts = {"scale": scale, "zero": np.float32(0), "bits": np.float32(n_bits)}
        names = [f"{quantized}.{part}" for part in parts]
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), given)
            for given, value in zip(names, parts.values(), strict=True)
        )
        node = helper.make_node(
            "Quant",
            [name, *names],
            [quantized],
            name=f"/input/{name}/Quant",
            domain=QUANT_DOMAINS[0],
            signed=int(signed),
            narrow=int(signed),
            rounding_mode="ROUND",
        )
        graph.node.insert(0, node)
    if all(opset.domain != QUANT_DOMAINS[0] for opset in new.opset_import):
        new.opset_import.append(helper.make_opsetid(QUANT_DOMAINS[0], 1))
    return new
