"""Quantized model in, QONNX file out: one graph, or one for each step of a decoder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx as brevitas_export
from numpy.typing import NDArray
from torch import Tensor, nn

from torusformer.quantize.decoding import DecoderStep
from torusformer.quantize.transformer import QuantTransformer

OPSET = 16
TOKEN_INPUT = "tokens"  # the property of a graph that says how token ids are sent


@torch.no_grad()
def export_qonnx(
    twin: QuantTransformer, example: NDArray[np.generic] | Tensor, path: str | Path
) -> onnx.ModelProto:
    """Write the QONNX graph for one sample; `example` is that sample, shape (1, …), or a batch."""
    sample = torch.as_tensor(example)[:1]
    if twin.model_config.vocabulary is not None:
        graph = export_graph(twin, (sample,), path, ["tokens"], ["logits"])
        how = twin.config.token_input or "one-hot"
        onnx.helper.set_model_props(graph, {TOKEN_INPUT: how})
        onnx.save(graph, str(path))
        return graph
    return export_graph(twin, (sample.to(torch.float32),), path, ["x"], ["logits"])


@torch.no_grad()
def export_graph(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: str | Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Write the QONNX graph of a model that takes `example`."""
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about each constant, on purpose here
        brevitas_export(
            model,
            args=example,
            export_path=str(path),
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            do_constant_folding=True,
        )
    return onnx.load(str(path))


def export_steps(twin: QuantTransformer, folder: Path) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Write the graph of the step at every position, one after the other: `step.3.qonnx.onnx`."""
    for position in range(twin.model_config.tokens):
        step = DecoderStep(twin, position)
        name = f"step.{position}"
        path = folder / f"{name}.qonnx.onnx"
        yield name, export_graph(step, step.example(), path, step.input_names, step.output_names)
