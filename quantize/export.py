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

from torusformer.quantize.causal import CausalDecoder
from torusformer.quantize.decoder_step import DecoderStep
from torusformer.quantize.transformer import QuantTransformer

OPSET = 16


@torch.no_grad()
def export_qonnx(
    qat: QuantTransformer, example: NDArray[np.float32] | Tensor, path: str | Path
) -> onnx.ModelProto:
    """Write the QONNX graph for one sample; `example` is (1, tokens, features) or a batch."""
    sample = torch.as_tensor(example, dtype=torch.float32)[:1]
    return export_graph(qat, (sample,), path, ["x"], ["logits"])


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
    model(*example)  # proves the ranges that export reads
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


def export_steps(decoder: CausalDecoder, folder: Path) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Write the graph of every step, one position after the other: `step.3.qonnx.onnx`."""
    for position in range(decoder.model.context):
        step, name = DecoderStep(decoder, position), f"step.{position}"
        path = folder / f"{name}.qonnx.onnx"
        yield name, export_graph(step, step.example(), path, step.input_names, step.output_names)
