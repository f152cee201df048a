"""Quantized transformer: samples (B, tokens, features) in, logits (B, num_classes) out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from torusformer.models.checkpoint import load_folder, save_folder
from torusformer.models.config import TransformerConfig
from torusformer.quantize.attention import QuantQueryAttention, build_attention
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.folded import FoldedBlock, folds
from torusformer.quantize.layers import (
    GroupedSum,
    QuantHead,
    RoundedLinear,
    add,
    in_a_row,
    side_by_side,
)
from torusformer.quantize.norms import build_quant_norm
from torusformer.quantize.quantizers import ActQuant, Grid, build_activation, build_branch, unary

KIND = "torusformer.quant-transformer"


class QuantBlock(nn.Module):
    """One encoder block; both branches end on the residual stream's grid.

    Where a learned query asks, the stream begins anew with the query's answer.
    """

    def __init__(
        self,
        model: TransformerConfig,
        config: QuantConfig,
        stream: ActQuant | None,
    ) -> None:
        """`stream` quantizes the embedding, whose scale the branches share; None for a query."""
        super().__init__()
        self.norm1 = build_quant_norm(model.norm, model.dim, config)
        self.attention = build_attention(model, config, asks=stream is None)
        if stream is None:
            self.query = nn.Parameter(torch.zeros(1, model.dim))
            self.attention_quant = stream = ActQuant(config.residual_bit_width)
        else:
            self.attention_quant = build_branch(config, stream)
        self.norm2 = build_quant_norm(model.norm, model.dim, config)
        self.up = RoundedLinear(model.dim, model.mlp_dim, config)
        self.activation = nn.GELU() if model.activation == "gelu" else nn.ReLU()
        # Unsigned: what GELU leaves below zero is less than one step.
        self.activation_quant = build_activation(config, signed=False)
        self.down = RoundedLinear(model.mlp_dim, model.dim, config, into_stream=True)
        self.mlp_quant = build_branch(config, stream)

    def forward(self, x: Grid) -> Grid:
        """(B, T, dim) to (B, T, dim), or to (B, 1, dim) for a query."""
        found = self.attention(self.norm1(x))
        if isinstance(self.attention, QuantQueryAttention):
            x = self.attention_quant(found + self.query)
        else:
            x = add(x, self.attention_quant(found))
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
        self.folded = FoldedBlock(model, config) if folds(model) else None
        if self.folded is not None:
            return
        asking = model.layers - 1 if model.pooling == "query" else model.layers
        self.embed = RoundedLinear(
            model.features * config.input_codes,
            model.dim,
            config,
            input_span=config.input_span,
            sum_bit_width=config.embed_sum_bit_width,
            into_stream=True,
        )
        self.positions = nn.Parameter(torch.zeros(model.tokens, model.dim))
        self.stream_quant = ActQuant(config.residual_bit_width, narrow=config.act_narrow)
        self.blocks = nn.ModuleList(
            QuantBlock(model, config, self.stream_quant if i < asking else None)
            for i in range(model.layers)
        )
        self.pool_sum = GroupedSum(config.raw_sum_bit_width, config.accumulator_bit_width)
        self.norm = build_quant_norm(model.norm, model.dim, config)
        inputs = model.tokens * model.features * config.input_codes if model.skip else 0
        self.head = QuantHead(model.dim + inputs, model.num_classes, config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, features) in the data's own units to logits (B, num_classes)."""
        pixels: Grid = self.input_quant(x)
        if self.config.input_unary:
            pixels = unary(pixels, x)
        unit = 1 / self.model_config.input_scale
        pixels = pixels._replace(value=pixels.value * unit, scale=pixels.scale * unit)
        if self.folded is not None:
            logits: Tensor = self.folded(pixels)
            return logits
        stream: Grid = self.stream_quant(self.embed(pixels, self.positions))
        for block in self.blocks:
            stream = block(stream)
        found: Grid = self.norm(self._pool(stream))
        return self.head(
            side_by_side([found, in_a_row(pixels)]) if self.model_config.skip else found
        )

    def _pool(self, x: Grid) -> Grid:
        if self.model_config.pooling != "mean":
            first = x.value[:, :1].reshape(-1, self.model_config.dim)
            return x._replace(value=first)
        n = self.model_config.tokens
        total = self.pool_sum(x._replace(value=x.value.transpose(1, 2)))  # (B, dim, 1)
        mean = total.value.reshape(-1, self.model_config.dim) * (1 / n)
        return total._replace(value=mean, scale=total.scale * (1 / n))

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
