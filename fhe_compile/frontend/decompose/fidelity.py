"""A program and the model that it was lowered from in, how far apart they are on samples out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torusformer.fhe_compile.frontend.decompose.samples import (
    Samples,
    opset_of,
    sample_inputs,
)
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import Program
from torusformer.fhe_compile.program.ports import dequantize_array, quantize_array


@dataclass(frozen=True)
class Fidelity:
    """On `samples` samples: the largest difference of an output, and how far outputs spread.

    `same_class` is the share on which the same one of an output's last axis is the largest.
    """

    samples: int
    largest_difference: float
    span: float
    same_class: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def float_answers(
    model: onnx.ModelProto, samples: NDArray[Any] | Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """What the model gives in floating point, by output, (N, *shape).

    Raises:
        InputError: samples that do not fit the model.
        LoweringError: an operator that ONNX's reference does not compute.
    """
    run = Samples(model.graph, sample_inputs(model.graph, samples), opset_of(model))
    for node in model.graph.node:
        run.run(node)
    return {value.name: run.of(value.name) for value in model.graph.output}


def fidelity(
    program: Program, model: onnx.ModelProto, samples: NDArray[Any] | Mapping[str, NDArray[Any]]
) -> Fidelity:
    """Compare the integers of `program`, dequantized, with the model in floating point.

    Args:
        program: what `lower` made of the model.
        model: a QONNX graph.
        samples: as `lower` takes them.

    Raises:
        InputError: samples that do not fit the model.
        LoweringError: an operator that ONNX's reference does not compute.
    """
    inputs = sample_inputs(model.graph, samples)
    answers = float_answers(model, inputs)
    count = len(next(iter(inputs.values())))
    largest, span, same, rows = 0.0, 0.0, 0, 0
    outputs = {port.name: answers[port.name] for port in program.outputs}
    for i in range(count):
        q_x = {port.name: quantize_array(port, inputs[port.name][i]) for port in program.inputs}
        values = interpret(program, q_x)
        for port in program.outputs:
            found = dequantize_array(port, values[port.name])
            exact = outputs[port.name][i].reshape(found.shape)
            largest = max(largest, float(np.abs(found - exact).max()))
            same += int((found.argmax(-1) == exact.argmax(-1)).sum())
            rows += found[..., 0].size
    for array in outputs.values():
        span = max(span, float(np.ptp(array)))
    return Fidelity(count, largest, span, same / max(1, rows))
