"""A float decoder in, its quantized twin out; and the twin to disk and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from torusformer.models.checkpoint import load_folder, save_folder
from torusformer.models.decoder import Decoder
from torusformer.models.decoder_config import DecoderConfig
from torusformer.quantize.causal import CausalDecoder
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.convert import set_scales
from torusformer.quantize.decoder import QuantDecoder
from torusformer.quantize.folded_decoder import FoldedDecoder, folds

KIND = "torusformer.quantized_decoder"
CALIBRATION_SEQUENCES = 512


def build_decoder(model: DecoderConfig, config: QuantConfig) -> CausalDecoder:
    """Untrained; folded where the shape allows it."""
    return FoldedDecoder(model, config) if folds(model) else QuantDecoder(model, config)


def to_quantized(model: Decoder, config: QuantConfig, tokens: NDArray[np.int64]) -> CausalDecoder:
    """The twin of a trained float decoder, its scales set from sequences (N, T)."""
    twin = build_decoder(model.config, config)
    if isinstance(twin, FoldedDecoder):
        twin.fold(model)
    else:
        twin.take_over(model)
    sample = torch.from_numpy(tokens[:CALIBRATION_SEQUENCES])
    set_scales(twin, lambda: twin(sample))
    return twin


def save_quantized(decoder: CausalDecoder, folder: Path) -> None:
    """Write config.json and model.safetensors into `folder`."""
    settings = {
        "kind": KIND,
        "model": decoder.model.to_dict(),
        "quant": decoder.config.to_dict(),
    }
    save_folder(folder, settings, decoder.state_dict())


def load_quantized(folder: Path) -> CausalDecoder:
    """Inverse of `save_quantized`, in eval mode."""
    with load_folder(folder, KIND) as (settings, weights):
        model = DecoderConfig.from_dict(settings["model"])
        decoder = build_decoder(model, QuantConfig.from_dict(settings["quant"]))
        decoder.load_state_dict(weights)
    return decoder.eval()
