"""A shape and bit widths in; the integer program of a calibrated but untrained model out.

What a program costs depends on shapes and proved ranges, hardly on what was learned.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch

import torusformer.pipelines.quiet_torch  # noqa: F401  before anything of quantize
from torusformer.fhe_compile import Program, lower
from torusformer.models import ModelConfig, Transformer, load_task
from torusformer.quantize import QuantConfig, calibrate, export_qonnx, to_qat


def untrained_program(
    preset: str, model: ModelConfig | None = None, quant: QuantConfig | None = None
) -> Program:
    """Of a preset, or of a preset with another shape or other widths."""
    model = model or ModelConfig.from_name(preset)
    task = load_task("digits", patch=model.patch, input_shape=model.input_shape)
    torch.manual_seed(0)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.filterwarnings("ignore", message="Named tensors")
        qat = to_qat(Transformer(model), quant or QuantConfig.from_name(preset))
        calibrate(qat, task.x_train)
        path = Path(folder) / "model.qonnx.onnx"
        export_qonnx(qat, task.x_train[:1], path)
        return lower(path)
