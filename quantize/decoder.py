"""Quantized decoder of any depth: tokens (B, T) in, logits (B, T, vocabulary) out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torusformer.models.causal import rotations, split, turned
from torusformer.models.decoder import Decoder, decoder_norm
from torusformer.models.decoder_config import DecoderConfig
from torusformer.quantize.causal import Cache, CausalCore, CausalDecoder, Entry, joined, seen
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.convert import copy_linear, copy_norm
from torusformer.quantize.layers import RoundedLinear, TokenHead, add
from torusformer.quantize.norms import build_quant_norm
from torusformer.quantize.quantizers import (
    ActQuant,
    Grid,
    build_activation,
    build_branch,
    constant,
    quantize_to,
)

TURN_STEPS = 3  # of a cosine: rotations are matrices of thirds


class TokenProjections(nn.Module):
    """Queries, keys and values of the first block: a token's alone, so in floating point."""

    def __init__(self, model: DecoderConfig, config: QuantConfig, core: CausalCore) -> None:
        """Layers of the float model, and its norm."""
        super().__init__()
        self.model, self.core = model, core
        self.norm = decoder_norm(model)
        self.query = nn.Linear(model.dim, model.heads * model.score_dim)
        self.key = nn.Linear(model.dim, model.groups * model.score_dim)
        self.value = nn.Linear(model.dim, model.groups * model.head_value_dim)

    def forward(self, x: Tensor, first: int) -> tuple[Grid, Grid, Grid]:
        """Embedded tokens (B, T, dim) to codes (B, heads or groups, T, d)."""
        model, core, n = self.model, self.core, self.norm(x)
        q, k = split(self.query(n), model.heads), split(self.key(n), model.groups)
        if model.positions == "rotary":
            turns = constant(rotations(model)[first : first + x.shape[1]])
            q, k = turned(q, turns), turned(k, turns)
        v = split(self.value(n), model.groups)
        return core.query_quant(q), core.key_quant(k), core.value_quant(v)


class StreamProjections(nn.Module):
    """The same of a later block, from the residual stream, in tables and narrow sums."""

    def __init__(self, model: DecoderConfig, config: QuantConfig, core: CausalCore) -> None:
        """With rotary positions, codes are turned by matrices of thirds and looked up again."""
        super().__init__()
        self.model, self.core = model, core
        self.norm = stream_norm(model, config)
        self.query = RoundedLinear(model.dim, model.heads * model.score_dim, config)
        self.key = RoundedLinear(model.dim, model.groups * model.score_dim, config)
        self.value = RoundedLinear(model.dim, model.groups * model.head_value_dim, config)
        if model.positions == "rotary":
            self.before_turn = nn.ModuleList(
                ActQuant(config.score_bit_width, narrow=True) for _ in range(2)
            )

    def forward(self, x: Grid, first: int) -> tuple[Grid, Grid, Grid]:
        """The stream (B, T, dim) to codes (B, heads or groups, T, d)."""
        model, core, n = self.model, self.core, self.norm(x)
        q, k = split(self.query(n), model.heads), split(self.key(n), model.groups)
        if model.positions == "rotary":
            turns = rotations(model)[first : first + q.shape[2]]
            q, k = (
                self._turned(quant(part).value, turns)
                for quant, part in zip(self.before_turn, (q, k), strict=True)
            )
        v = split(self.value(n), model.groups)
        return core.query_quant(q), core.key_quant(k), core.value_quant(v)

    def _turned(self, x: Tensor, turns: Tensor) -> Tensor:
        thirds = quantize_to(constant(turns), torch.tensor(1 / TURN_STEPS), 3)
        return x @ thirds[0] if len(turns) == 1 else turned(x, thirds)


class QuantDecoderBlock(nn.Module):
    """One pre-norm block; both branches end on the residual stream's grid."""

    def __init__(
        self, model: DecoderConfig, config: QuantConfig, stream: ActQuant, *, first: bool
    ) -> None:
        """`stream` quantizes the embedding, whose scale the branches share."""
        super().__init__()
        self.core = CausalCore(model, config)
        kind = TokenProjections if first else StreamProjections
        self.asked = kind(model, config, self.core)
        inner = model.heads * model.head_value_dim
        self.out = RoundedLinear(inner, model.dim, config, into_stream=True)
        self.attention_quant = build_branch(config, stream)
        self.norm2 = stream_norm(model, config)
        self.up = RoundedLinear(model.dim, model.mlp_dim, config)
        self.gated = model.activation == "swiglu"
        if self.gated:
            self.gate = RoundedLinear(model.dim, model.mlp_dim, config)
            self.up_quant, self.gate_quant = (ActQuant(config.act_bit_width) for _ in range(2))
        self.activation = nn.GELU() if model.activation == "gelu" else nn.ReLU()
        self.activation_quant = build_activation(config, signed=self.gated)
        self.down = RoundedLinear(model.mlp_dim, model.dim, config, into_stream=True)
        self.mlp_quant = build_branch(config, stream)

    def forward(self, stream: Grid, found: Grid) -> Grid:
        """The stream (B, T, dim) with what the heads found (B, T, h * d) and the MLP made of it."""
        x = add(stream, self.attention_quant(self.out(found)))
        return add(x, self.mlp_quant(self.down(self._hidden(self.norm2(x)))))

    def _hidden(self, n: Grid) -> Grid:
        if not self.gated:
            return self.activation_quant(self.activation(self.up(n)))
        # A function of two encrypted numbers: one table of the pair.
        gate, up = self.gate_quant(self.gate(n)), self.up_quant(self.up(n))
        return self.activation_quant(F.silu(gate.value) * up.value)


class QuantDecoder(CausalDecoder):
    """The integer twin of `models.Decoder`; what it computes is what runs encrypted."""

    def __init__(self, model: DecoderConfig, config: QuantConfig) -> None:
        """Untrained; `take_over` gives it the weights of a float model."""
        super().__init__(model, config)
        self.embed = nn.Embedding(model.vocabulary, model.dim)
        self.positions = (
            nn.Parameter(torch.zeros(model.context, model.dim))
            if model.positions == "learned"
            else None
        )
        self.stream_quant = ActQuant(config.residual_bit_width, narrow=config.act_narrow)
        self.blocks = nn.ModuleList(
            QuantDecoderBlock(model, config, self.stream_quant, first=i == 0)
            for i in range(model.layers)
        )
        self.norm = stream_norm(model, config)
        self.head = TokenHead(model.dim, model.vocabulary, config)
        self.bias = nn.Parameter(torch.zeros(model.vocabulary))
        if model.tied:
            self.head.linear.weight = self.embed.weight

    @property
    def cores(self) -> list[CausalCore]:
        """Attention of every block."""
        return [block.core for block in self.blocks]

    def run(
        self, tokens: Tensor, cache: Cache | None = None, *, answer: bool = True
    ) -> tuple[Tensor | None, Cache]:
        """Logits of `tokens` (B, T) behind those of the `cache`, and what is new for the cache.

        Without `answer` only the latter: attention and MLP of the last block are left out.
        """
        first = seen(cache)
        x: Tensor = self.embed(tokens)
        if self.positions is not None:
            x = x + constant(self.positions[first : first + tokens.shape[1]])
        rows = torch.arange(first, first + tokens.shape[1])
        stream: Grid = self.stream_quant(x)
        new: list[Entry] = []
        for i, block in enumerate(self.blocks):
            q, k, v = block.asked(stream if i else x, first)
            new.append(Entry(k, v))
            if not answer and i == len(self.blocks) - 1:
                return None, new
            ((keys, values),) = joined([cache[i]] if cache else None, new[i:])
            stream = block(stream, block.core(q, keys, values, rows))
        return self.head(self.norm(stream), self.bias), new

    @torch.no_grad()
    def take_over(self, model: Decoder) -> None:
        """Copy the weights of a float model of the same shape."""
        self.embed.weight.copy_(model.embed.weight)
        if self.positions is not None and model.positions is not None:
            self.positions.copy_(model.positions)
        for source, target in zip(model.blocks, self.blocks, strict=True):
            attention, asked = source.attention, target.asked
            for name in ("query", "key", "value"):
                part = getattr(asked, name)
                if isinstance(part, RoundedLinear):
                    copy_linear(getattr(attention, name), part)
                else:
                    part.load_state_dict(getattr(attention, name).state_dict())
            if isinstance(asked, StreamProjections):
                copy_norm(source.norm1, asked.norm)
            else:
                asked.norm.load_state_dict(source.norm1.state_dict())
            if attention.distance_bias is not None:
                target.core.distance_bias.copy_(attention.distance_bias)
            copy_norm(source.norm2, target.norm2)
            copy_linear(attention.out, target.out)
            copy_linear(source.up, target.up)
            if source.gate is not None:
                copy_linear(source.gate, target.gate)
            copy_linear(source.down, target.down)
        copy_norm(model.norm, self.norm)
        self.head.linear.weight.copy_(model.head.weight)
        self.bias.copy_(model.head.bias)


def stream_norm(model: DecoderConfig, config: QuantConfig) -> nn.Module:
    """The norm of the residual stream; where the model has none, a gain and shift a channel."""
    kind = "batch" if model.norm == "none" else model.norm
    return build_quant_norm(kind, model.dim, config)
