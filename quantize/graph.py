"""A float transformer in, a graph of its operations out: what is folded, then quantized.

Values are tensors (B, T, n), named after the module that makes them. `Code` marks where the
quantized twin looks a value up; in floating point it changes nothing. `interpreter.interpret`
runs a graph: every rewrite of `fold` must leave that what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from torusformer.models.attention import Attention
from torusformer.models.config import Activation, ModelConfig, Norm
from torusformer.models.neighbours import Window
from torusformer.models.norms import NORMS, FloatNorm
from torusformer.models.transformer import Block, Transformer

# What a value is looked up for, and so on which grid; see `quantize.transformer`.
Role = Literal["stream", "restart", "branch", "activation", "hidden", "factor"]
INPUT = "input"
POOLED = "pooler_quant"  # what a head reads of a pooler
WINDOW = "window.activation_quant"  # of the units that read neighbours


@dataclass(frozen=True, eq=False)
class Op:
    """One operation: `name` of its value, names of the values that it reads."""

    name: str
    sources: tuple[str, ...]

    def reading(self, sources: Iterable[str]) -> Op:
        """The same of other values."""
        return replace(self, sources=tuple(sources))


@dataclass(frozen=True, eq=False)
class Features(Op):
    """The input's numbers times `unit`."""

    unit: float


@dataclass(frozen=True, eq=False)
class Embedding(Op):
    """Rows of `weight` (vocabulary, dim) for token ids, plus `positions` (T, dim)."""

    weight: Tensor
    positions: Tensor | None


@dataclass(frozen=True, eq=False)
class Neighbours(Op):
    """Sums of rows of `weight` (W, vocabulary, n): of each token and of those behind it."""

    weight: Tensor


@dataclass(frozen=True, eq=False)
class Affine(Op):
    """Σ `weights`[i] (out, in_i) times source i, plus `bias` (out,) and `positions` (T, out).

    And the rows of `near` (W - 1, vocabulary, out) of the tokens before each.
    """

    weights: tuple[Tensor, ...]
    bias: Tensor
    positions: Tensor | None = None
    near: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Head(Affine):
    """The logits."""


@dataclass(frozen=True, eq=False)
class Code(Op):
    """The source, looked up on a grid of its `role`."""

    role: Role


@dataclass(frozen=True, eq=False)
class Normalize(Op):
    """A norm with gain `weight` and shift `bias`; a batch norm is that gain and shift alone."""

    kind: Norm
    weight: Tensor
    bias: Tensor
    epsilon: float

    @property
    def is_affine(self) -> bool:
        """Whether nothing is measured of the source."""
        return not NORMS[self.kind].measures


@dataclass(frozen=True, eq=False)
class Residual(Op):
    """The residual stream, first source, plus a branch."""


@dataclass(frozen=True, eq=False)
class Attend(Op):
    """Attention between its projections: sources are queries, keys and values.

    Where a learned query `asks`, they are its scores, linear in the tokens, and the values.
    """

    asks: bool
    tables: Tensor | None
    distance_bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Activate(Op):
    """The activation of one source; of two, of the first times the second."""

    kind: Activation


@dataclass(frozen=True, eq=False)
class Pool(Op):
    """(B, T, n) to (B, n), or (B, T * n) in a row: what the model's pooling takes."""


@dataclass(frozen=True, eq=False)
class InARow(Op):
    """(B, T, n) to (B, T * n)."""


@dataclass(frozen=True, eq=False)
class OneToken(InARow):
    """(B, T, n) to (B, 1, T * n)."""


@dataclass(frozen=True, eq=False)
class Total(Op):
    """(B, T, n) to (B, 1, n): the sum over tokens."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations in order; the last one gives the logits."""

    model: ModelConfig
    ops: tuple[Op, ...]

    def __getitem__(self, name: str) -> Op:
        return next(op for op in self.ops if op.name == name)

    def readers(self, name: str) -> list[Op]:
        """Operations that read a value."""
        return [op for op in self.ops if name in op.sources]

    def replace(self, changed: Iterable[Op]) -> Graph:
        """With some operations in place of those of their names."""
        new = {op.name: op for op in changed}
        return replace(self, ops=tuple(new.get(op.name, op) for op in self.ops))

    def of_tokens(self) -> frozenset[str]:
        """Values that depend on a token and its position alone, and are never looked up."""
        found: set[str] = set()
        for op in self.ops:
            row_wise = isinstance(op, Affine | Normalize) and not isinstance(op, Head)
            row_wise &= getattr(op, "near", None) is None
            if isinstance(op, Embedding) or (row_wise and set(op.sources) <= found):
                found.add(op.name)
        return frozenset(found)


@torch.no_grad()
def graph_of(model: Transformer) -> Graph:
    """The graph of a float model as it computes in inference."""
    config, ops = model.config, list[Op]()

    def add(op: Op) -> str:
        ops.append(op)
        return op.name

    if config.features is not None:
        unit = 1.0 if config.input_scale is None else 1 / config.input_scale
        add(Features(INPUT, (), unit))
        weight, bias = model.embed.weight, model.embed.bias
        x = add(Affine("embed", (INPUT,), (weight,), bias, model.positions))
    elif isinstance(model.embed, Window):
        x = _add_window(add, model.embed, model.positions)
    else:
        x = add(Embedding("embed", (), model.embed.weight, model.positions))
    if config.embed_norm:
        x = add(_norm("embed_norm", x, config.norm, model.embed_norm))
    stream = add(Code("stream_quant", (x,), "stream"))
    for i, block in enumerate(model.blocks):
        asks = config.pooling == "query" and i == config.layers - 1
        query = model.query if asks else None
        row: Row | None = None
        if asks and config.skip:
            row = _total(add, model, x) if config.zero_padding else _row(add, model, OneToken)
        stream = _add_block(add, block, f"blocks.{i}", stream, query, row)
    rowed = config.pooling == "row"
    if not (config.positionwise or rowed):
        stream = add(Pool("pool_sum", (stream,)))
    if not config.post_norm:
        stream = add(_norm("norm", stream, config.norm, model.norm))
    if rowed:
        stream = add(Pool("pool_sum", (stream,)))
    if config.pooler is not None:
        layer = model.pooler
        stream = add(Affine("pooler", (stream,), (layer.weight,), layer.bias))
        stream = add(Activate("pooler_activation", (stream,), config.pooler))
        stream = add(Code(POOLED, (stream,), "activation"))
    head = model.head
    if not isinstance(head, nn.Linear):  # a hidden model: a map that changes nothing
        head = nn.Linear(config.head_reads, config.head_reads)
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    sources: tuple[str, ...] = (stream,)
    weights: tuple[Tensor, ...] = (head.weight,)
    shift: Tensor = head.bias
    if config.skip and config.pooling != "query":
        pixels, linear, added = _row(add, model, InARow)
        sources, weights, shift = (stream, pixels), (*weights, linear), shift + added
    add(Head("head", sources, weights, shift))
    return Graph(config, tuple(_detached(op) for op in ops))


Row = tuple[str, Tensor, Tensor]  # all inputs in a row, a map of them, its offset


def _add_block(
    add: Callable[[Op], str],
    block: Block,
    name: str,
    stream: str,
    query: Tensor | None,
    row: Row | None,
) -> str:
    """One block; the name of the stream behind it. The stream of a query begins with a row."""
    attention, kind, post = block.attention, block.config.norm, block.config.post_norm
    read = stream if post else add(_norm(f"{name}.norm1", stream, kind, block.norm1))

    def project(part: str) -> str:
        layer = getattr(attention, part)
        return add(Affine(f"{name}.{part}", (read,), (layer.weight,), layer.bias))

    if query is None:
        sources = [project(part) for part in ("query", "key", "value")]
    else:
        score = add(Affine(f"{name}.score", (read,), *_asked(attention, query)))
        sources = [score, project("value")]
    tables, bias = attention.tables, attention.distance_bias
    found = add(Attend(f"{name}.attention", tuple(sources), query is not None, tables, bias))
    out = attention.out
    shift = out.bias if query is None else out.bias + query[0]
    sources, weights = [found], [out.weight]
    if row is not None:
        sources, weights, shift = [found, row[0]], [out.weight, row[1]], shift + row[2]
    found = add(Affine(f"{name}.out", tuple(sources), tuple(weights), shift))
    if query is None:
        branch = add(Code(f"{name}.attention_quant", (found,), "branch"))
        stream = add(Residual(f"{name}.attended", (stream, branch)))
    else:  # the stream begins anew with the answer
        stream = add(Code(f"{name}.attention_quant", (found,), "restart"))
    if not block.config.mlp_dim:
        return stream
    if post:
        read = stream = add(_norm(f"{name}.norm1", stream, kind, block.norm1))
    else:
        read = add(_norm(f"{name}.norm2", stream, kind, block.norm2))
    up = add(Affine(f"{name}.up", (read,), (block.up.weight,), block.up.bias, near=block.near))
    if block.gate is not None:
        gate = add(Affine(f"{name}.gate", (read,), (block.gate.weight,), block.gate.bias))
        up, gate = (add(Code(f"{value}_quant", (value,), "factor")) for value in (up, gate))
        up = add(Activate(f"{name}.activation", (gate, up), block.config.activation))
    else:
        up = add(Activate(f"{name}.activation", (up,), block.config.activation))
    hidden = add(Code(f"{name}.activation_quant", (up,), "hidden"))
    down = add(Affine(f"{name}.down", (hidden,), (block.down.weight,), block.down.bias))
    branch = add(Code(f"{name}.mlp_quant", (down,), "branch"))
    stream = add(Residual(f"{name}.passed", (stream, branch)))
    return add(_norm(f"{name}.norm2", stream, kind, block.norm2)) if post else stream


def _add_window(add: Callable[[Op], str], window: Window, positions: Tensor | None) -> str:
    """The name of the embedding of phrases."""
    found = add(Neighbours("window.sum", (), window.near))
    found = add(Activate("window.activation", (found,), window.config.activation))
    hidden = add(Code(WINDOW, (found,), "hidden"))
    weight = window.down.weight
    return add(Affine("embed", (hidden,), (weight,), torch.zeros(len(weight)), positions))


def _norm(name: str, source: str, kind: Norm, norm: FloatNorm) -> Normalize:
    return Normalize(name, (source,), kind, *norm.folded(), norm.epsilon)


def _asked(attention: Attention, query: Tensor) -> tuple[tuple[Tensor], Tensor]:
    """Scores of one query (1, dim) as a linear map (heads, dim) of tokens, and its offset (heads,).

    Softmax ignores that offset, so it is left out there.
    """
    config = attention.config
    q = attention.query(query).reshape(config.heads, config.score_dim, 1)
    k, b = (
        part.reshape(config.key_heads, config.score_dim, -1).repeat_interleave(
            config.heads // config.key_heads, dim=0
        )
        for part in (attention.key.weight, attention.key.bias)
    )
    weight, offset = ((q * part).sum(1) / math.sqrt(config.score_dim) for part in (k, b))
    ignored = config.attention == "softmax"
    return (weight,), torch.zeros(config.heads) if ignored else offset[:, 0]


def _row(add: Callable[[Op], str], model: Transformer, kind: type[InARow]) -> Row:
    """What is skipped of embedded tokens, as one linear map of all inputs in a row."""
    row = add(kind("input_row", (INPUT,)))
    assert isinstance(model.embed, nn.Linear)
    skip = model.skip.weight.unflatten(1, (model.config.tokens, -1))  # (out, tokens, dim)
    embedded: Tensor = model.embed.bias
    if model.positions is not None:
        embedded = embedded + model.positions
    return row, (skip @ model.embed.weight).flatten(1), (skip * embedded).sum((1, 2))


def _total(add: Callable[[Op], str], model: Transformer, embedded: str) -> Row:
    """What is skipped of embedded tokens whose padding is zero, as a map of their sum."""
    return add(Total("input_total", (embedded,))), model.skip.weight, torch.zeros(model.config.dim)


def _detached(op: Op) -> Op:
    """The same with tensors of its own."""
    copies: dict[str, object] = {}
    for name, value in vars(op).items():
        if isinstance(value, Tensor):
            copies[name] = value.detach().clone()
        elif isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value):
            copies[name] = tuple(v.detach().clone() for v in value)
    return replace(op, **copies)  # type: ignore[arg-type]
