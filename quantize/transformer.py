"""Quantized transformer: samples (B, tokens, features) in, logits (B, num_classes) out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import load_folder, save_folder
from models.config import TransformerConfig
from quantize.config import QuantConfig
from quantize.layers import AccumulatorRounding, QuantAttention, QuantHead, RoundedLinear, add
from quantize.norms import build_quant_norm
from quantize.quantizers import ActQuant, Grid

KIND = "torusformer.quant-transformer"


class QuantBlock(nn.Module):
    """One encoder block; both branches end on the residual stream's grid."""

    def __init__(self, model: TransformerConfig, config: QuantConfig, stream: ActQuant) -> None:
        """`stream` quantizes the embedding; the branches share its scale."""
        super().__init__()
        self.norm1 = build_quant_norm(model.norm, model.dim, config)
        self.attention = QuantAttention(
            model.dim, model.heads, model.score_dim, model.tokens, config
        )
        self.attention_quant = ActQuant(config.branch_bit_width, share_scale_of=stream)
        self.norm2 = build_quant_norm(model.norm, model.dim, config)
        self.up = RoundedLinear(model.dim, model.mlp_dim, config)
        self.activation = nn.GELU() if model.activation == "gelu" else nn.ReLU()
        # Unsigned: what GELU leaves below zero is less than one step.
        self.activation_quant = ActQuant(config.act_bit_width, signed=False)
        self.down = RoundedLinear(model.mlp_dim, model.dim, config, into_stream=True)
        self.mlp_quant = ActQuant(config.branch_bit_width, share_scale_of=stream)

    def forward(self, x: Grid) -> Grid:
        """(B, T, dim) to (B, T, dim)."""
        x = add(x, self.attention_quant(self.attention(self.norm1(x))))
        hidden = self.activation_quant(self.activation(self.up(self.norm2(x))))
        return add(x, self.mlp_quant(self.down(hidden)))


class QuantTransformer(nn.Module):
    """The integer twin of `models.Transformer`; what it computes is what runs encrypted."""

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """Untrained; `to_qat` copies the weights of a float model."""
        super().__init__()
        self.model_config, self.config = model, config
        self.input_quant = ActQuant(config.input_bit_width, signed=False)
        self.input_quant.requires_grad_(False)  # the client's grid: set once, free of ties
        self.embed = RoundedLinear(
            model.features,
            model.dim,
            config,
            input_bit_width=config.input_bit_width,
            into_stream=True,
        )
        self.positions = nn.Parameter(torch.zeros(model.tokens, model.dim))
        self.stream_quant = ActQuant(config.residual_bit_width)
        self.blocks = nn.ModuleList(
            QuantBlock(model, config, self.stream_quant) for _ in range(model.layers)
        )
        self.pool_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.norm = build_quant_norm(model.norm, model.dim, config)
        self.head = QuantHead(model.dim, model.num_classes, config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, features) in the data's own units to logits (B, num_classes)."""
        pixels: Grid = self.input_quant(x)
        unit = 1 / self.model_config.input_scale
        pixels = pixels._replace(value=pixels.value * unit, scale=pixels.scale * unit)
        stream: Grid = self.stream_quant(self.embed(pixels, self.positions))
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(self._pool(stream)))

    def _pool(self, x: Grid) -> Grid:
        if self.model_config.pooling == "first":
            first = x.value[:, :1].reshape(-1, self.model_config.dim)
            return x._replace(value=first)
        n = self.model_config.tokens
        total = Grid(x.value.sum(1), x.scale, n * x.lo, n * x.hi)
        mean = self.pool_rounding.grid(total)
        return mean._replace(value=mean.value * (1 / n), scale=mean.scale * (1 / n))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        settings = {
            "kind": KIND,
            "model": self.model_config.to_dict(),
            "quant": self.config.to_dict(),
        }
        save_folder(folder, settings, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> QuantTransformer:
        """Inverse of `save_pretrained`, in eval mode."""
        with load_folder(folder, KIND) as (settings, weights):
            model = TransformerConfig.from_dict(settings["model"])
            qat = cls(model, QuantConfig.from_dict(settings["quant"]))
            qat.load_state_dict(weights)
        return qat.eval()
