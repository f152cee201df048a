"""Float transformer: samples (B, tokens, features) in, class logits (B, num_classes) out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from torusformer.models.attention import Attention
from torusformer.models.checkpoint import load_folder, save_folder
from torusformer.models.config import TransformerConfig
from torusformer.models.norms import build_norm

KIND = "torusformer.transformer"


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        """Layers of one pre-norm encoder block."""
        super().__init__()
        self.norm1 = build_norm(config.norm, config.dim)
        self.attention = Attention(
            config.dim, config.heads, config.score_dim, config.attention, config.groups
        )
        self.norm2 = build_norm(config.norm, config.dim)
        self.up = nn.Linear(config.dim, config.mlp_dim)
        self.activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()
        self.down = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """(B, T, dim) to (B, T, dim), or to (B, 1, dim) where a learned `query` (1, dim) asks."""
        start = x if query is None else query.expand(len(x), 1, -1)
        x = start + self.attention(self.norm1(x), None if query is None else start)
        return x + self.down(self.activation(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Linear embedding, learned positions, blocks, pooling, norm, linear head.

    The last norm comes after the pooling, so it costs one token instead of all of them.
    """

    def __init__(self, config: TransformerConfig) -> None:
        """Weights drawn from torch's global generator: seed it first."""
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.features, config.dim)
        self.positions = nn.Parameter(torch.randn(config.tokens, config.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        if config.pooling == "query":
            self.query = nn.Parameter(torch.randn(1, config.dim) * 0.5)
        if config.skip:
            self.skip = nn.Linear(config.tokens * config.dim, config.num_classes, bias=False)
        self.norm = build_norm(config.norm, config.dim)
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, features) to logits (B, num_classes)."""
        x = embedded = self.embed(x / self.config.input_scale) + self.positions
        *earlier, last = self.blocks
        for block in earlier:
            x = block(x)
        x = last(x, self.query if self.config.pooling == "query" else None)
        x = x.mean(dim=1) if self.config.pooling == "mean" else x[:, 0]
        logits: Tensor = self.head(self.norm(x))
        return logits + self.skip(embedded.flatten(1)) if self.config.skip else logits

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        save_folder(folder, {"kind": KIND, "model": self.config.to_dict()}, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Transformer:
        """Inverse of `save_pretrained`, in eval mode."""
        with load_folder(folder, KIND) as (settings, weights):
            model = cls(TransformerConfig.from_dict(settings["model"]))
            model.load_state_dict(weights)
        return model.eval()
