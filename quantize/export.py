"""Quantized transformer in, QONNX file out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx as brevitas_export
from numpy.typing import NDArray
from torch import Tensor

from quantize.transformer import QuantTransformer

OPSET = 16


@torch.no_grad()
def export_qonnx(
    qat: QuantTransformer, example: NDArray[np.float32] | Tensor, path: str | Path
) -> onnx.ModelProto:
    """Write the QONNX graph for one sample; `example` is (1, tokens, features) or a batch."""
    qat.eval()
    sample = torch.as_tensor(example, dtype=torch.float32)[:1]
    qat(sample)  # proves the ranges that export reads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about each constant, on purpose here
        brevitas_export(
            qat,
            sample,
            export_path=str(path),
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits"],
            do_constant_folding=True,
        )
    return onnx.load(str(path))
