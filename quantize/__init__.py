"""Quantization-aware training: a float transformer in, a QONNX graph out."""

from torusformer.quantize.config import QuantConfig
from torusformer.quantize.convert import calibrate, to_qat
from torusformer.quantize.export import export_qonnx, export_steps
from torusformer.quantize.training import History, TrainConfig, evaluate, predict, train
from torusformer.quantize.transformer import QuantTransformer

__all__ = [
    "History",
    "QuantConfig",
    "QuantTransformer",
    "TrainConfig",
    "calibrate",
    "evaluate",
    "export_qonnx",
    "export_steps",
    "predict",
    "to_qat",
    "train",
]
