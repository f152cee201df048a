"""A decoder of one block without norms, in as few tables as it takes: tokens in, logits out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusformer.models.causal import rotations, split, turned
from torusformer.models.decoder import Decoder
from torusformer.models.decoder_config import DecoderConfig
from torusformer.quantize.causal import Cache, CausalCore, CausalDecoder, Entry, joined, seen
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import RoundedLinear, TokenHead, side_by_side
from torusformer.quantize.quantizers import Grid, build_activation, constant, quantize_to


def folds(model: DecoderConfig) -> bool:
    """Whether only affine maps lie between the tables that the model cannot do without."""
    return model.layers == 1 and model.norm == "none" and model.activation != "swiglu"


class FoldedDecoder(CausalDecoder):
    """One map wherever the float model has several in a row; what a token alone gives is looked up.

    | here | in the float model |
    |---|---|
    | `query`, `key`, `value` of a token | embedding, position, projection: floating point |
    | `up` of what heads found + `token_up` | output projection, residual, up |
    | `head` of both + `token_head` | output projection, down, residual, head |
    """

    def __init__(self, model: DecoderConfig, config: QuantConfig) -> None:
        """Untrained; `fold` gives it the weights of a float model."""
        super().__init__(model, config)
        inner = model.heads * model.head_value_dim
        self.embed = nn.Embedding(model.vocabulary, model.dim)
        self.positions = nn.Parameter(torch.zeros(model.context, model.dim))
        self.query = nn.Linear(model.dim, model.heads * model.score_dim)
        self.key = nn.Linear(model.dim, model.groups * model.score_dim)
        self.value = nn.Linear(model.dim, model.groups * model.head_value_dim)
        self.core = CausalCore(model, config)
        self.up = RoundedLinear(inner, model.mlp_dim, config)
        self.token_up = nn.Linear(model.dim, model.mlp_dim)
        self.gain = nn.Parameter(torch.ones(model.mlp_dim))  # of hidden units, free in their tables
        self.activation = nn.GELU() if model.activation == "gelu" else nn.ReLU()
        # One grid, so that the head sums up both.
        self.activation_quant = build_activation(
            config, signed=False, share_scale_of=self.core.context_quant
        )
        self.head = TokenHead(inner + model.mlp_dim, model.vocabulary, config)
        self.token_head = nn.Linear(model.dim, model.vocabulary)

    @property
    def cores(self) -> list[CausalCore]:
        """Attention of every block."""
        return [self.core]

    def embedded(self, tokens: Tensor, first: int = 0) -> Tensor:
        """(B, T) tokens at positions from `first` on to (B, T, dim)."""
        x: Tensor = self.embed(tokens)
        return x + constant(self.positions[first : first + tokens.shape[1]])

    def asked(self, x: Tensor, first: int = 0) -> tuple[Grid, Grid, Grid]:
        """Codes of queries, keys and values (B, heads or groups, T, d) of embedded tokens."""
        model, core = self.model, self.core
        q = split(self.query(x), model.heads)
        k = split(self.key(x), model.groups)
        v = split(self.value(x), model.groups)
        if model.positions == "rotary":
            turns = constant(rotations(model)[first : first + x.shape[1]])
            q, k = turned(q, turns), turned(k, turns)
        return core.query_quant(q), core.key_quant(k), core.value_quant(v)

    def answer(self, found: Grid, x: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) from what heads found and the embedded tokens."""
        total = self.up.accumulate(found)
        bits = self.config.token_bit_width
        added = quantize_to(self.token_up(x), constant(total.scale), bits)
        half = 2.0 ** (bits - 1)
        total = Grid(total.value + added, total.scale, total.lo - half, total.hi + half - 1)
        total = self.up.rounding(total, self.up.bias)
        hidden = self.activation_quant(self.activation(total.value * self.gain))
        return self.head(side_by_side([found, hidden]), self.token_head(x))

    def run(
        self, tokens: Tensor, cache: Cache | None = None, *, answer: bool = True
    ) -> tuple[Tensor | None, Cache]:
        """Logits of `tokens` (B, T) behind those of the `cache`, and what is new for the cache.

        Without `answer` only the latter, which takes no bootstrap here.
        """
        first = seen(cache)
        x = self.embedded(tokens, first)
        q, k, v = self.asked(x, first)
        new = (Entry(k, v),)
        if not answer:
            return None, new
        keys, values = joined(cache, new)[0]
        rows = torch.arange(first, first + tokens.shape[1])
        return self.answer(self.core(q, keys, values, rows), x), new

    @torch.no_grad()
    def fold(self, model: Decoder) -> None:
        """Take over a float model whose shape `folds`."""
        (block,), attention = model.blocks, model.blocks[0].attention
        self.embed.weight.copy_(model.embed.weight)
        if model.positions is not None:
            self.positions.copy_(model.positions)
        for name in ("query", "key", "value"):
            getattr(self, name).load_state_dict(getattr(attention, name).state_dict())
        if attention.distance_bias is not None:
            self.core.distance_bias.copy_(attention.distance_bias)
        out, up, down, head = attention.out, block.up, block.down, model.head
        self.up.linear.weight.copy_(up.weight @ out.weight)
        self.token_up.weight.copy_(up.weight)
        self.token_up.bias.copy_(up.weight @ out.bias + up.bias)
        self.head.linear.weight.copy_(head.weight @ torch.cat([out.weight, down.weight], dim=1))
        self.token_head.weight.copy_(head.weight)
        self.token_head.bias.copy_(head.weight @ (out.bias + down.bias) + head.bias)
