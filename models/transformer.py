"""Float transformer: features or token ids in, logits of classes or of the next token out.

A hidden model has no head: what a head would read comes out.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from torusformer.models.activations import ACTIVATIONS
from torusformer.models.attention import Attention
from torusformer.models.checkpoint import load_folder, save_folder
from torusformer.models.config import ModelConfig
from torusformer.models.neighbours import NEAR_STD, Window, rows_before
from torusformer.models.norms import build_norm
from torusformer.models.positions import position_vectors

KIND = "torusformer.transformer"


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); post-norm: norm(x + attention(x)), …"""

    def __init__(self, config: ModelConfig, window: int = 1) -> None:
        """Layers of one block; a gated MLP has a second projection beside `up`.

        With a `window`, `near` (window - 1, vocabulary, mlp_dim) is what MLP reads of neighbours.
        """
        super().__init__()
        self.config = config
        self.norm1 = build_norm(config.norm, config.dim, config.norm_epsilon)
        self.attention = Attention(config)
        self.near: nn.Parameter | None = None
        if not config.mlp_dim:
            return
        self.norm2 = build_norm(config.norm, config.dim, config.norm_epsilon)
        self.up = nn.Linear(config.dim, config.mlp_dim)
        self.gate = nn.Linear(config.dim, config.mlp_dim) if config.gated else None
        self.down = nn.Linear(config.mlp_dim, config.dim)
        if window > 1:
            shape = (window - 1, config.vocabulary or 0, config.mlp_dim)
            self.near = nn.Parameter(torch.randn(shape) * NEAR_STD / math.sqrt(window))

    def forward(
        self,
        x: Tensor,
        query: Tensor | None = None,
        keep: Tensor | None = None,
        skipped: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """(B, T, dim) to (B, T, dim), or to (B, 1, dim) where a learned `query` (1, dim) asks.

        `keep` (B, T) is 0 where a token is padding. The stream of the query begins with what was
        `skipped` to it (B, dim), if anything. `tokens` (B, T) are the ids, where neighbours count.
        """
        start = x if query is None else query.expand(len(x), 1, -1)
        asks = None if query is None else start
        if query is not None and skipped is not None:
            start = start + skipped.unsqueeze(1)
        if self.config.post_norm:
            x = self.norm1(start + self.attention(x, asks, keep))
            return self.norm2(x + self._mlp(x, tokens))
        x = start + self.attention(self.norm1(x), asks, keep)
        return x if not self.config.mlp_dim else x + self._mlp(self.norm2(x), tokens)

    def _mlp(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        act = ACTIVATIONS[self.config.activation]
        up = self.up(x)
        if self.near is not None and tokens is not None:
            up = up + sum(rows_before(self.near, tokens))
        return self.down(act(up) if self.gate is None else act(self.gate(x)) * up)


class Transformer(nn.Module):
    """Embedding, positions, blocks, and logits of what they end with.

    The last norm comes after the pooling, so it costs one token instead of all of them, but not
    where all stand in a row; a post-norm model has none.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Weights drawn from torch's global generator: seed it first."""
        super().__init__()
        self.config = config
        self.embed: nn.Linear | nn.Embedding | Window
        if config.features is not None:
            self.embed = nn.Linear(config.features, config.dim)
        elif config.window_dim is not None:
            self.embed = Window(config)
        else:
            zero = config.padding if config.zero_padding else None
            self.embed = nn.Embedding(config.vocabulary or 0, config.dim, padding_idx=zero)
        vectors = position_vectors(config)
        if isinstance(vectors, nn.Parameter):
            self.positions = vectors
        else:
            self.register_buffer("positions", vectors, persistent=False)
        if config.embed_norm:
            self.embed_norm = build_norm(config.norm, config.dim, config.norm_epsilon)
        first = 1 if config.window_dim is not None else config.window or 1
        windows = (first, *[1] * (config.layers - 1))[: config.layers]
        self.blocks = nn.ModuleList(Block(config, window) for window in windows)
        if config.pooling == "query":
            self.query = nn.Parameter(torch.randn(1, config.dim) * 0.5)
        if config.skip:
            width = config.dim if config.pooling == "query" else config.outputs
            places = 1 if config.zero_padding else config.tokens
            self.skip = nn.Linear(places * config.dim, width, bias=False)
        last = "none" if config.post_norm else config.norm
        self.norm = build_norm(last, config.dim, config.norm_epsilon)
        if config.pooler is not None:
            self.pooler = nn.Linear(config.pooled_dim, config.dim)
        self.head = nn.Identity() if config.hidden else nn.Linear(config.head_reads, config.outputs)
        if config.tied:
            nn.init.normal_(self.embed.weight, std=config.dim**-0.5)
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, features) or ids (B, T) to logits (B, classes) or (B, T, vocabulary).

        Of a hidden model (B, T, dim), or (B, dim) where it pools.
        """
        config = self.config
        keep = None if config.padding is None else (x != config.padding).to(torch.float32)
        tokens = None if config.window is None else x
        x = embedded = self._embedded(x)
        asks = config.pooling == "query"
        for block in self.blocks[:-1] if asks else self.blocks:
            x = block(x, keep=keep, tokens=tokens)
        row = embedded.sum(1) if config.zero_padding else embedded.flatten(1)
        skipped = self.skip(row) if config.skip else None
        if asks:
            x = self.blocks[-1](x, self.query, keep, skipped, tokens)
        if config.positionwise:
            x = self.norm(x)
        elif config.pooling == "row":
            x = pooled(config, self.norm(x), keep)
        else:
            x = self.norm(pooled(config, x, keep))
        if config.pooler is not None:
            x = ACTIVATIONS[config.pooler](self.pooler(x))
        logits: Tensor = self.head(x)
        return logits if skipped is None or config.pooling == "query" else logits + skipped

    def _embedded(self, x: Tensor) -> Tensor:
        scale = self.config.input_scale
        x = self.embed(x if scale is None else x / scale)
        x = x if self.positions is None else x + self.positions[: x.shape[1]]
        return self.embed_norm(x) if self.config.embed_norm else x

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        save_folder(folder, {"kind": KIND, "model": self.config.to_dict()}, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Transformer:
        """Inverse of `save_pretrained`, in eval mode."""
        with load_folder(folder, KIND) as (settings, weights):
            model = cls(ModelConfig.from_dict(settings["model"]))
            model.load_state_dict(weights)
        return model.eval()


def pooled(config: ModelConfig, x: Tensor, keep: Tensor | None) -> Tensor:
    """(B, T, n) to (B, n), or (B, T * n) in a row: what the head reads.

    `keep` (B, T) is 0 where a token is padding.
    """
    match config.pooling or "mean":
        case "first" | "query":
            return x[:, 0]
        case "last":
            return x[:, -1]
        case "row":
            return x.flatten(1)
        case "sum":
            return x.sum(1)
    if keep is None:
        return x.mean(dim=1)
    return (x * keep.unsqueeze(-1)).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
