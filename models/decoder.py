"""Float causal decoder: tokens (B, T) in, logits of the next ones (B, T, vocabulary) out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torusformer.models.causal import CausalAttention
from torusformer.models.checkpoint import load_folder, save_folder
from torusformer.models.decoder_config import DecoderConfig
from torusformer.models.norms import LayerNorm, RMSNorm

KIND = "torusformer.decoder"


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        """Layers of one pre-norm block; SwiGLU (arXiv 2002.05202) has a gate beside `up`."""
        super().__init__()
        self.norm1 = decoder_norm(config)
        self.attention = CausalAttention(config)
        self.norm2 = decoder_norm(config)
        self.activation = config.activation
        self.up = nn.Linear(config.dim, config.mlp_dim)
        self.gate = nn.Linear(config.dim, config.mlp_dim) if self.activation == "swiglu" else None
        self.down = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) to (B, T, dim)."""
        x = x + self.attention(self.norm1(x))
        n = self.norm2(x)
        if self.gate is not None:
            hidden = F.silu(self.gate(n)) * self.up(n)
        else:
            hidden = F.gelu(self.up(n)) if self.activation == "gelu" else F.relu(self.up(n))
        return x + self.down(hidden)


class Decoder(nn.Module):
    """Embedding, positions, blocks, norm, logits."""

    def __init__(self, config: DecoderConfig) -> None:
        """Weights drawn from torch's global generator: seed it first."""
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.dim)
        learned = config.positions == "learned"
        self.positions = (
            nn.Parameter(0.1 * torch.randn(config.context, config.dim)) if learned else None
        )
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = decoder_norm(config)
        self.head = nn.Linear(config.dim, config.vocabulary)
        if config.tied:
            nn.init.normal_(self.embed.weight, std=config.dim**-0.5)
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) of int64, T at most the context, to (B, T, vocabulary)."""
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        save_folder(folder, {"kind": KIND, "model": self.config.to_dict()}, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Decoder:
        """Inverse of `save_pretrained`, in eval mode."""
        with load_folder(folder, KIND) as (settings, weights):
            model = cls(DecoderConfig.from_dict(settings["model"]))
            model.load_state_dict(weights)
        return model.eval()


def decoder_norm(config: DecoderConfig) -> nn.Module:
    """The norm that the configuration names."""
    if config.norm == "none":
        return nn.Identity()
    return (LayerNorm if config.norm == "layer" else RMSNorm)(config.dim)
