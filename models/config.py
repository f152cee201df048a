"""The shape of a transformer: one frozen configuration for pixels, tokens and text."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from torusformer.config import Config
from torusformer.models.presets import preset

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh", "hardtanh"]
AttentionKind = Literal["softmax", "relu", "quad", "sigmoid", "tanh", "inhibitor", "table"]
Norm = Literal["layer", "rms", "batch", "none"]
Pooling = Literal["mean", "sum", "first", "last", "row", "query"]
Positions = Literal["learned", "rotary", "sinusoidal", "none"]
Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]

ROTARY_BASE = 100.0
CHANNELS = (1, 3)  # numbers a pixel: grey, colour
TABLE_CODES = 2


class ModelConfig(Config):
    """A transformer over `tokens` tokens, from features or token ids to classes or the next token.

    Inputs: `features` numbers a token, divided by `input_scale` (the largest magnitude a raw value
    takes); `patch` is how a task cuts a 2-D image into tokens, (rows, columns) a token, of one
    number a pixel or three of colour. Or token ids below `vocabulary`, of which the id `padding`
    fills up short inputs: it adds nothing to attention and means. A `causal` model attends to
    earlier tokens only.

    Outputs: `num_classes` logits of what `pooling` gives the head: the mean of all tokens, the
    first, the last, all of them in a "row", their "sum", or, with "query", what a learned query
    finds in the last block's attention (class attention, arXiv 2103.17239). With `skip` the
    head also reads every embedded token, of texts their sum: a residual connection around all
    blocks, which stays linear; it ends where a learned query's stream begins, if there is one.
    With a `pooler` the head reads a layer of width `dim` of what is pooled, through that
    activation. Without `num_classes`, the logits of the next token at every position; `tied`
    reads them off the embedding. A `hidden` model has no head: it gives what one would read, of
    every position where there is no `pooling`.

    Blocks, `layers` of them, or none: `norm` before attention and MLP, or with `post_norm`
    after each residual sum, and with `embed_norm` behind the embedding of tokens too;
    `norm_epsilon` is added to what they measure. `activation` of the MLP, `gated` by a second
    projection (arXiv 2002.05202); with `mlp_dim` 0 there is none. `attention` is a kind of
    `models.attention`, `groups` the codes a head of the kind "table". `kv_heads` below `heads`
    is grouped-query attention (arXiv 2305.13245). `head_dim` is that of queries and keys,
    `value_dim` that of values. `positions` are learned or sinusoidal vectors added to the
    embedding, or rotations of queries and keys (arXiv 2104.09864) by angles that fall to
    `rotary_base` ** -1; `distance_bias` adds to a score what a head has learned about the
    distance of two tokens (arXiv 1910.10683). With a `window` of W the first block's MLP also
    reads the W - 1 tokens before each, a learned row for each token and place: it costs no
    bootstrap. A classifier of tokens has `window_dim` units instead, each of which reads a
    token and the W - 1 behind it; a map of them is its embedding.

    >>> ModelConfig(tokens=8, features=8, num_classes=10, dim=32, heads=2).score_dim
    16
    """

    tokens: Count
    features: Count | None = None
    vocabulary: Several | None = None
    num_classes: Several | None = None
    causal: bool = False
    dim: Count = 32
    layers: Annotated[int, Field(ge=0)] = 2
    heads: Count = 2
    kv_heads: Count | None = None
    head_dim: Count | None = None
    value_dim: Count | None = None
    mlp_dim: Annotated[int, Field(ge=0)] = 64
    activation: Activation = "gelu"
    gated: bool = False
    attention: AttentionKind = "softmax"
    groups: Count | None = None
    norm: Norm = "layer"
    norm_epsilon: Positive | None = None
    post_norm: bool = False
    embed_norm: bool = False
    positions: Positions = "learned"
    rotary_base: Positive | None = None
    distance_bias: bool = False
    pooling: Pooling | None = None
    pooler: Activation | None = None
    hidden: bool = False
    skip: bool = False
    tied: bool = False
    window: Several | None = None
    window_dim: Count | None = None
    padding: Annotated[int, Field(ge=0)] | None = None
    input_scale: Positive | None = None
    patch: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse what cannot be built or would be ignored, naming the field and a cure."""
        if (self.features is None) == (self.vocabulary is None):
            raise ValueError("give features for inputs of numbers, or vocabulary for token ids")
        for applies, names, why in self._restrictions():
            given = [n for n in names if not any(getattr(self, n) is v for v in (None, False))]
            if given and not applies:
                raise ValueError(f"{given[0]} is {getattr(self, given[0])!r} and {why}")
        if self.head_dim is None and self.dim % self.heads:
            raise ValueError(
                f"dim {self.dim} is not a multiple of heads {self.heads}; change one of them or"
                " set head_dim"
            )
        if self.heads % self.key_heads:
            raise ValueError(
                f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}; each head of"
                " keys serves equally many queries"
            )
        if self.positions == "rotary" and self.score_dim % 2:
            raise ValueError(
                f"rotary positions turn pairs of dimensions, head_dim is {self.score_dim};"
                " make it even"
            )
        if self.padding is not None and self.padding >= (self.vocabulary or 0):
            raise ValueError(
                f"padding is token {self.padding} of a vocabulary of {self.vocabulary};"
                " name one of its tokens"
            )
        if self.patch is not None:
            pixels = self.patch[0] * self.patch[1]
            if min(self.patch) < 1 or self.features not in [pixels * n for n in CHANNELS]:
                raise ValueError(
                    f"patch {self.patch} holds {pixels} values but features is {self.features};"
                    f" make them equal, or features {CHANNELS[-1]} times that for colour"
                )
        return self

    def _restrictions(self) -> tuple[tuple[bool, tuple[str, ...], str], ...]:
        """Where settings apply, which those are, and what to do elsewhere."""
        products = self.attention not in ("inhibitor", "table")
        return (
            (self.features is not None, ("input_scale", "patch"), "inputs are token ids;"
             " leave it out, or give features"),
            (self.features is not None or self._pads_a_query, ("skip",),
             "a text has no fixed row of tokens to read; leave it out, or give features, or padding"
             " and pooling query"),
            (self.vocabulary is not None, ("padding", "embed_norm"), "inputs are no token"
             " ids; leave it out"),
            (not self.foretells or (self.causal and self.vocabulary is not None), ("tokens",),
             "num_classes is missing; give it, or a causal model of a vocabulary"),
            (not self.foretells, ("pooling",), "the next token is foretold at every"
             " position; leave it out, or give num_classes"),
            (self.foretells, ("tied",), "only logits of the next token can be read off"
             " the embedding; leave it out"),
            (not self.positionwise, ("pooler",), "the output is that of every position; leave it"
             " out, or give num_classes"),
            (not self.hidden, ("num_classes", "skip"), "a hidden model has no head; leave it out,"
             " or leave out hidden"),
            (self.norm != "none", ("norm_epsilon", "embed_norm"), "norm is none; leave it out, or"
             " choose another norm"),
            ((self.foretells and not self.gated) or self.window_dim is not None, ("window",), "only"
             " a decoder whose MLP has no gate reads neighbours, or a classifier in window_dim"
             " units; leave it out, or leave out num_classes and gated, or give window_dim"),
            (self.vocabulary is not None and not self.foretells and self.window is not None,
             ("window_dim",), "only a classifier of token ids has such units; leave it out, or give"
             " window and num_classes"),
            (self.attention == "table", ("groups",), f"attention is {self.attention}; leave it"
             " out, or choose attention table"),
            (self.positions == "rotary", ("rotary_base",), f"positions are {self.positions}; leave"
             " it out, or choose rotary"),
            (self.mlp_dim > 0, ("gated", "post_norm"), "there is no MLP; leave it out, or give"
             " mlp_dim"),
            (products, ("distance_bias",), f"attention {self.attention} adds none; leave it out"),
            (products or self.positions != "rotary", ("positions",), "only products of queries"
             f" and keys turn, attention is {self.attention}; choose learned positions"),
            (products or self.pooling != "query", ("pooling",), "asks by products, attention is"
             f" {self.attention}; choose pooling mean or first"),
            (self.positions != "rotary" or self.pooling != "query", ("pooling",), "a learned query"
             " has no position to turn to; choose pooling mean or first, or learned positions"),
            (not self.causal or self.pooling != "query", ("pooling",), "a learned query sees all"
             " tokens, a causal model does not; choose pooling last"),
            (self.padding is None or self.pooling not in ("last", "row"), ("pooling",),
             "padding may fill the last token; choose pooling mean or first"),
            (self.padding is None or self.pooling != "query" or self._pads_with_zero, ("pooling",),
             "padding weighs nothing for a learned query only in one block of attention tanh"
             " without positions; choose that, or pooling mean or first"),
            (self.pooling != "sum" or self.layers == 0, ("pooling",), "what blocks find in padding"
             " would be summed up; choose layers 0, or pooling mean, first or query"),
            (self.pooling != "sum" or self.positions == "none", ("pooling",), "padding has"
             " positions too; choose positions none, or pooling mean"),
            (self.layers > 0 or self.pooling in ("sum", "mean", None), ("pooling",), "without"
             " blocks a token knows of itself alone; choose pooling sum or mean, or give layers"),
            (not self.distance_bias or self.pooling != "query", ("pooling",), "a learned query has"
             " no distance to tokens; leave out distance_bias"),
            (self.attention != "sigmoid" or self.pooling != "query", ("pooling",), "a learned query"
             " has no distance to tokens, attention sigmoid a bias for each; choose pooling mean"
             " or first"),
            (self.kv_heads is None or products, ("kv_heads",), f"attention {self.attention} has a"
             " head of keys for each of queries; leave it out"),
        )  # fmt: skip

    @property
    def _pads_with_zero(self) -> bool:
        """Whether what a learned query finds in padding is zero by itself, under encryption too."""
        return self.layers == 1 and self.attention == "tanh" and self.positions == "none"

    @property
    def _pads_a_query(self) -> bool:
        return self.zero_padding and self.pooling == "query"

    @property
    def zero_padding(self) -> bool:
        """Whether padding is a token of zeros, so that a text counts the same at any length."""
        return self.padding is not None and self.pooling in ("query", "sum")

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def score_dim(self) -> int:
        """Dimensions of a query and a key of one head."""
        return self.head_dim if self.head_dim is not None else self.dim // self.heads

    @property
    def key_dim(self) -> int:
        """Numbers that a query and a key of one head consist of: dimensions, or codes."""
        return (self.groups or TABLE_CODES) if self.attention == "table" else self.score_dim

    @property
    def head_value_dim(self) -> int:
        """Dimensions of a value of one head."""
        return self.value_dim if self.value_dim is not None else self.score_dim

    @property
    def pooled_dim(self) -> int:
        """Numbers that the head reads."""
        return self.dim * self.tokens if self.pooling == "row" else self.dim

    @property
    def head_reads(self) -> int:
        """Numbers that logits are a linear map of."""
        return self.pooled_dim if self.pooler is None else self.dim

    @property
    def outputs(self) -> int:
        """Logits at a time: classes, or the vocabulary; without a head, what it would read."""
        count = self.head_reads if self.hidden else self.num_classes or self.vocabulary
        assert count is not None, "checked when it was made"
        return count

    @property
    def foretells(self) -> bool:
        """Whether the logits are those of the next token, at every position."""
        return self.num_classes is None and not self.hidden

    @property
    def positionwise(self) -> bool:
        """Whether there is an output for every position."""
        return self.foretells or (self.hidden and self.pooling is None)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample: (tokens, features), or (tokens,) ids."""
        return (self.tokens,) if self.features is None else (self.tokens, self.features)

    @classmethod
    def from_name(cls, name: str) -> ModelConfig:
        """A preset by name."""
        return cls.from_dict(preset(name, "model"))
