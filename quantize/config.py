"""How many bits every part of a quantized transformer gets: one frozen configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from torusformer.config import Config
from torusformer.models.presets import preset

WeightQuant = Literal["bounded", "a2q", "a2q+"]
Rewrite = Literal["mean", "affine"]  # of `quantize.fold`, those that can be left out
TokenInput = Literal["one-hot", "lookup"]
MAX_BITS = 12  # 3 or 4 are usual
Bits = Annotated[int, Field(ge=1, le=MAX_BITS)]
# Layers whose sums may wrap: maps by the last part of their name, and two kinds of products.
Wrapping = Literal[
    "embed", "query", "key", "value", "up", "gate", "out", "down", "score", "context", "window"
]
Width = Annotated[int, Field(ge=2, le=MAX_BITS)]
EXACT_BITS = 24  # of whole numbers in float32: sums on the way to narrow ones, see `widened`
Sum = Annotated[int, Field(ge=2, le=EXACT_BITS)]
# What a wrapping sum is looked up as, and so which `*_narrow` makes its levels odd.
ODD_LEVELS: Mapping[Wrapping, str] = {
    **dict.fromkeys(("embed", "context", "out", "up", "gate", "down", "window"), "act"),
    **dict.fromkeys(("query", "key"), "score"),
    "value": "value",
}


# What `QuantConfig.widened` makes as wide as it is asked to, and of what it lifts the limit.
CODES = (
    "weight", "act", "residual", "branch", "score", "value", "softmax", "exp", "attention", "norm",
    "rsqrt", "token", "head_weight",
)  # fmt: skip
SUMS = ("accumulator", "stream_accumulator", "sum", "embed_sum", "statistic", "head_sum")


class QuantConfig(Config):
    """Bit widths; every one of them is a price, see the planner.

    `weight_bit_width` 2 means ternary weights. `act_bit_width` is what linear layers read; with
    `act_narrow` it is one level less (three levels of two bits), so that sums of the same width
    take more weights. `accumulator_bit_width` is the widest value a table may see: wider sums are
    rounded, in the forward pass of training exactly as under encryption.
    `stream_accumulator_bit_width` is the same limit where a table writes into the residual stream:
    wide sums read the stream, and a wide reader makes wide tables twice as dear.
    `statistic_bit_width` is the limit for sums of which there is one a row (norms, softmax), so
    they may be wider; `raw_sum_bit_width` limits them before their rounding, group by group.
    `square_bit_width` are the bits of a layer norm's squares, all of them where it is None.
    `score_narrow`, `value_narrow` and `attention_narrow` leave one level out of queries and keys,
    of values, and of attention's weights. `gains` gives each channel of what heads find, and of
    hidden units, a learned gain, free in its tables.

    `unfolded` names rewrites of `quantize.fold` that are left out though their pattern stands in
    the model: fewer tables are a shallower model. Without `embed_table` the same holds for the
    embedding of features: what reads it reads the input.

    `rings` names the layers whose sums wrap, and the bits p of the tables that read them: nothing
    is proved of such a sum and nothing rounded, a table sees it modulo 2^(p + 1), see
    `quantize.rings`. Its weights are bounded by nothing but noise, and the codes behind it need odd
    numbers of levels. "score" is the sum that attention's weights read, "context" that of values.

    One bit of a query, key or value, and of the attention kind "tanh", is a sign: -1 or 1.

    Without a `context_table` what a learned query's heads find is not looked up: sums over tokens
    are read as they are, by layers that wrap or give the logits.

    `token_input` says how token ids are sent: "one-hot" rows, of which the server makes the
    embedding without a bootstrap, or "lookup", rows of a public table that the client looks up.

    `token_bit_width`: bits of what a token alone adds to a sum: of the MLP in a decoder, of what a
    learned query reads, of units that read neighbours.

    `input_unary` sends an input n of b bits as the 2^b - 1 bits n >= 1, n >= 2, ...: more
    ciphertexts, which cost no bootstrap, but sums of the same width take more weights.

    `sum_bit_width` is the widest a linear layer's sum may be before that rounding: the weights'
    L1 norm is held below what it allows; `embed_sum_bit_width` is that of the embedding, where it
    differs, and then the width its tables see. At `accumulator_bit_width` nothing is ever rounded.
    `weight_quant` says how: "bounded" takes the least-squares scale among those that fit, "a2q"
    and "a2q+" are Brevitas's accumulator-aware quantizers with learned scales.
    """

    weight_bit_width: Width = 2
    act_bit_width: Bits = 3
    act_narrow: bool = False
    accumulator_bit_width: Sum = 5
    stream_accumulator_bit_width: Sum = 5
    sum_bit_width: Sum = 8
    embed_sum_bit_width: Sum | None = None
    statistic_bit_width: Sum = 6
    raw_sum_bit_width: Width | None = None
    input_bit_width: Bits = 4
    input_unary: bool = False
    residual_bit_width: Width = 4
    branch_bit_width: Width = 3
    score_bit_width: Bits = 3
    value_bit_width: Bits = 3
    softmax_bit_width: Width = 4
    exp_bit_width: Width = 6
    attention_bit_width: Bits = 3
    score_narrow: bool = False
    value_narrow: bool = True
    attention_narrow: bool = False
    norm_bit_width: Width = 3
    square_bit_width: Width | None = None
    rsqrt_bit_width: Bits = 2
    token_bit_width: Width = 4
    head_weight_bit_width: Width = 4
    head_sum_bit_width: Sum = 10
    weight_quant: WeightQuant = "bounded"
    gains: bool = False
    unfolded: tuple[Rewrite, ...] = ()
    embed_table: bool = True
    context_table: bool = True
    token_input: TokenInput | None = None
    rings: Mapping[Wrapping, Sum] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse widths that leave nothing."""
        if self.act_narrow and self.act_bit_width == 1:
            raise ValueError("act_narrow leaves one level of act_bit_width 1; set one or the other")
        if "context" in self.rings and not self.context_table:
            raise ValueError("rings name 'context', which no table reads; set context_table")
        for layer, field in ODD_LEVELS.items():
            signs = field != "act" and getattr(self, f"{field}_bit_width") == 1
            if layer in self.rings and not signs and not getattr(self, f"{field}_narrow"):
                raise ValueError(
                    f"rings name {layer!r}, whose codes need an odd number of levels; set"
                    f" {field}_narrow"
                )
        return self

    @property
    def input_codes(self) -> int:
        """Integers that the client sends for one number."""
        return 2**self.input_bit_width - 1 if self.input_unary else 1

    @property
    def input_span(self) -> int:
        """Highest less lowest integer that the embedding reads."""
        return 1 if self.input_unary else 2**self.input_bit_width - 1

    @property
    def act_span(self) -> int:
        """Highest less lowest integer that a linear layer reads."""
        return 2**self.act_bit_width - 1 - self.act_narrow

    def widened(self, bits: int) -> Self:
        """A step on the way here: weights and codes of at least `bits`, sums of any width.

        Inputs are quantized as here, and the same layers wrap, but in rings so wide that none does.

        >>> wide = QuantConfig(act_bit_width=2, norm_bit_width=5).widened(4)
        >>> wide.act_bit_width, wide.norm_bit_width, wide.sum_bit_width
        (4, 5, 24)
        """
        changes: dict[str, Any] = {
            "rings": dict.fromkeys(self.rings, EXACT_BITS),
            "raw_sum_bit_width": None,
            "square_bit_width": None,
        }
        for name in CODES:
            changes[f"{name}_bit_width"] = max(bits, getattr(self, f"{name}_bit_width"))
        for name in SUMS:
            if getattr(self, f"{name}_bit_width") is not None:
                changes[f"{name}_bit_width"] = EXACT_BITS
        for layer in self.rings:  # signs become codes, whose levels must be odd there
            if layer in ODD_LEVELS:
                changes[f"{ODD_LEVELS[layer]}_narrow"] = True
        return self.replace(**changes)

    @classmethod
    def from_name(cls, name: str) -> QuantConfig:
        """The bit widths that go with the model preset of that name."""
        return cls.from_dict(preset(name, "quant"))
