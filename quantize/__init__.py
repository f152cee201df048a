"""Quantization-aware training: a float transformer in, a QONNX graph out."""

from quantize.config import QuantConfig
from quantize.convert import calibrate, to_qat
from quantize.export import export_qonnx
from quantize.train import History, TrainConfig, evaluate, predict, train
from quantize.transformer import QuantTransformer

__all__ = [
    "History",
    "QuantConfig",
    "QuantTransformer",
    "TrainConfig",
    "calibrate",
    "evaluate",
    "export_qonnx",
    "predict",
    "to_qat",
    "train",
]
