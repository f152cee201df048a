"""One block under batch norm that a learned query asks, in as few tables: pixels in, logits out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusformer.models.config import TransformerConfig
from torusformer.models.norms import BatchNorm
from torusformer.models.transformer import Transformer
from torusformer.quantize.attention import Weights, asked
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import (
    AccumulatorRounding,
    QuantHead,
    RoundedLinear,
    in_a_row,
    matmul,
    side_by_side,
)
from torusformer.quantize.quantizers import ActQuant, Grid, build_activation

_Map = tuple[Tensor, Tensor]  # weight (out, in), bias (..., out)


def folds(model: TransformerConfig) -> bool:
    """Whether only affine maps lie between the tables that the model cannot do without.

    That is so where one block is asked by a learned query and batch norm is the norm.
    """
    return model.layers == 1 and model.pooling == "query" and model.norm == "batch"


class FoldedBlock(nn.Module):
    """One linear map wherever the float model has several in a row.

    | one map here | in the float model |
    |---|---|
    | `embed` of pixels | embedding, positions, norm1 |
    | `up` of the context c | output projection, residual, norm2, up |
    | `head` of c and hidden | output projection, down, residual, norm, head |

    The tables of residual stream, later norms and output projection are gone: a batch norm in
    inference is affine, and so is a residual sum. What the embedding gives is looked up, though
    it need not be: as a table it is a layer more, and folded away it cost accuracy.
    """

    def __init__(self, model: TransformerConfig, config: QuantConfig) -> None:
        """Untrained; `fold` gives it the weights of a float model."""
        super().__init__()
        self.heads, self.head_dim, self.tokens = model.heads, model.score_dim, model.tokens
        self.input_codes = config.input_codes
        inner = self.heads * self.head_dim
        self.embed = RoundedLinear(
            model.features * config.input_codes,
            model.dim,
            config,
            input_span=config.input_span,
            sum_bit_width=config.embed_sum_bit_width,
        )
        self.positions = nn.Parameter(torch.zeros(self.tokens, model.dim))
        self.embed_quant = build_activation(config)
        self.value = RoundedLinear(model.dim, inner, config)
        self.score = RoundedLinear(model.dim, self.heads, config)
        self.value_quant = ActQuant(config.value_bit_width, narrow=True)
        self.weights = Weights(model, config)
        self.context_rounding = AccumulatorRounding(config.accumulator_bit_width)
        self.context_quant = build_activation(config)
        self.up = RoundedLinear(inner, model.mlp_dim, config)
        self.activation = nn.GELU() if model.activation == "gelu" else nn.ReLU()
        # One grid, so that the head sums up both.
        self.activation_quant = build_activation(
            config, signed=False, share_scale_of=self.context_quant
        )
        read = inner + model.mlp_dim
        self.skip = model.skip
        if model.skip:
            read += model.tokens * model.features * config.input_codes
        self.head = QuantHead(read, model.num_classes, config)

    def forward(self, pixels: Grid) -> Tensor:
        """(B, tokens, features) to logits (B, num_classes)."""
        x = self.embed_quant(self.embed(pixels, self.positions))
        scores = self.score(x)  # (B, T, h)
        a = self.weights(scores.transpose(1, 2).reshape(-1, self.heads, 1, self.tokens))
        v = self.value_quant(self.value(x))
        split = v.value.reshape(-1, self.tokens, self.heads, self.head_dim).transpose(1, 2)
        context = self.context_rounding(matmul(a, v._replace(value=split)))  # (B, h, 1, d)
        c = self.context_quant(context.value.reshape(-1, self.heads * self.head_dim))
        hidden = self.activation_quant(self.activation(self.up(c)))
        return self.head(side_by_side([c, hidden, *([in_a_row(pixels)] if self.skip else [])]))

    @torch.no_grad()
    def fold(self, model: Transformer) -> None:
        """Take over a float model whose shape `folds`."""
        (block,), attention = model.blocks, model.blocks[0].attention
        embed = model.embed.weight, model.embed.bias + model.positions
        weight, bias = _then(embed, _affine(block.norm1))
        self.embed.linear.weight.copy_(weight.repeat_interleave(self.input_codes, dim=1))
        self.positions.copy_(bias)
        self.value.linear.weight.copy_(attention.value.weight)
        self.value.bias.copy_(attention.value.bias)
        self.score.linear.weight.copy_(asked(attention, model.query))

        found = attention.out.weight, attention.out.bias + model.query[0]
        weight, bias = _then(_then(found, _affine(block.norm2)), (block.up.weight, block.up.bias))
        self.up.linear.weight.copy_(weight)
        self.up.bias.copy_(bias)

        stream = torch.cat([found[0], block.down.weight], dim=1), found[1] + block.down.bias
        head = model.head.weight, model.head.bias
        weight, bias = _then(_then(stream, _affine(model.norm)), head)
        if self.skip:
            linear, added = skipped(model, self.input_codes)
            weight, bias = torch.cat([weight, linear], dim=1), bias + added
        self.head.linear.weight.copy_(weight)
        self.head.bias.copy_(bias)


def skipped(model: Transformer, input_codes: int) -> _Map:
    """What the head reads of embedded tokens, as one linear map of all inputs."""
    skip = model.skip.weight.unflatten(1, (model.config.tokens, -1))  # (classes, tokens, dim)
    weight = (skip @ model.embed.weight).flatten(1).repeat_interleave(input_codes, dim=1)
    return weight, (skip * (model.embed.bias + model.positions)).sum((1, 2))


def _affine(norm: nn.Module) -> _Map:
    assert isinstance(norm, BatchNorm)
    gain, shift = norm.folded()
    return torch.diag(gain), shift


def _then(first: _Map, second: _Map) -> _Map:
    """One map that does both."""
    return second[0] @ first[0], first[1] @ second[0].T + second[1]
