"""How many bits every part of a quantized transformer gets: one frozen dataclass, presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torusformer import InputError

WeightQuant = Literal["bounded", "a2q", "a2q+"]
MAX_BITS = 12
_MAY_BE_ONE = ("act_bit_width", "input_bit_width", "rsqrt_bit_width", "attention_bit_width")


@dataclass(frozen=True)
class QuantConfig:
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
    `fold_mean` takes a layer norm's mean out of the weights of what writes into the residual
    stream (arXiv 2401.15024): an RMS norm is left, two tables and many roundings a token cheaper.

    `token_bit_width`: in a decoder, bits of what a token alone adds to a sum of the MLP.

    `input_unary` sends an input n of b bits as the 2^b - 1 bits n >= 1, n >= 2, ...: more
    ciphertexts, which cost no bootstrap, but sums of the same width take more weights.

    `sum_bit_width` is the widest a linear layer's sum may be before that rounding: the weights'
    L1 norm is held below what it allows; `embed_sum_bit_width` is that of the embedding, where it
    differs, and then the width its tables see. At `accumulator_bit_width` nothing is ever rounded.
    `weight_quant` says how: "bounded" takes the least-squares scale among those that fit, "a2q"
    and "a2q+" are Brevitas's accumulator-aware quantizers with learned scales.
    """

    weight_bit_width: int = 2
    act_bit_width: int = 3
    act_narrow: bool = False
    accumulator_bit_width: int = 5
    stream_accumulator_bit_width: int = 5
    sum_bit_width: int = 8
    embed_sum_bit_width: int | None = None
    statistic_bit_width: int = 6
    raw_sum_bit_width: int | None = None
    input_bit_width: int = 4
    input_unary: bool = False
    residual_bit_width: int = 4
    branch_bit_width: int = 3
    score_bit_width: int = 3
    value_bit_width: int = 3
    softmax_bit_width: int = 4
    exp_bit_width: int = 6
    attention_bit_width: int = 3
    norm_bit_width: int = 3
    square_bit_width: int | None = None
    rsqrt_bit_width: int = 2
    fold_mean: bool = False
    token_bit_width: int = 4
    head_weight_bit_width: int = 4
    head_sum_bit_width: int = 10
    weight_quant: WeightQuant = "bounded"

    def __post_init__(self) -> None:
        """Refuse widths that no table can serve."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("bit_width") and not (field.default is None and value is None):
                least = 1 if field.name in _MAY_BE_ONE else 2
                if isinstance(value, bool) or not isinstance(value, int):
                    raise InputError(f"{field.name} is {value!r}; give a whole number")
                if not least <= value <= MAX_BITS:
                    raise InputError(
                        f"{field.name} is {value}; give {least} to {MAX_BITS} (3 or 4 is usual)"
                    )
        if self.act_narrow and self.act_bit_width == 1:
            raise InputError("act_narrow leaves one level of act_bit_width 1; set one or the other")
        if self.weight_quant not in get_args(WeightQuant):
            raise InputError(
                f"weight_quant is {self.weight_quant!r}; choose one of"
                f" {', '.join(get_args(WeightQuant))}"
            )

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

    def replace(self, **changes: Any) -> QuantConfig:
        """A validated copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantConfig:
        """Inverse of `to_dict`; unknown fields are refused by name."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"unknown quantization setting {unknown[0]!r}; known: {sorted(known)}")
        return cls(**values)

    @classmethod
    def from_name(cls, name: str) -> QuantConfig:
        """The preset that goes with the model preset of that name."""
        if name not in PRESETS:
            raise InputError(f"no preset named {name!r}; choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])


# Two-bit activations and sums of five bits: linear layers need no rounding at all.
_NO_ROUNDING: dict[str, Any] = {"sum_bit_width": 5, "input_bit_width": 2, "act_bit_width": 2}
_SMALL: dict[str, Any] = {
    **_NO_ROUNDING, "head_sum_bit_width": 6, "head_weight_bit_width": 2, "exp_bit_width": 4,
}  # fmt: skip
# Nor does attention, where four tokens meet in products of two bits.
_TINY: dict[str, Any] = {
    **_SMALL, "score_bit_width": 2, "value_bit_width": 2, "attention_bit_width": 2,
    "exp_bit_width": 3, "statistic_bit_width": 5,
}  # fmt: skip
# Every linear layer's sum is four bits: three levels times seven weights, or fifteen single bits.
_FOUR_BITS: dict[str, Any] = {
    "input_bit_width": 2, "input_unary": True, "act_bit_width": 2, "act_narrow": True,
    "sum_bit_width": 4, "accumulator_bit_width": 4, "stream_accumulator_bit_width": 4,
    "statistic_bit_width": 5, "score_bit_width": 2, "value_bit_width": 2, "attention_bit_width": 2,
    "exp_bit_width": 3, "softmax_bit_width": 3, "head_sum_bit_width": 10,
    "head_weight_bit_width": 3,
}  # fmt: skip
_STANDARD: dict[str, Any] = {
    **_FOUR_BITS, "raw_sum_bit_width": 6, "square_bit_width": 3, "rsqrt_bit_width": 1,
    "residual_bit_width": 3, "branch_bit_width": 2, "fold_mean": True,
}  # fmt: skip

# A decoder of one folded block: what lies between its tables is one sum of four bits.
_WORDS: dict[str, Any] = {
    "act_bit_width": 2, "sum_bit_width": 4, "token_bit_width": 4, "accumulator_bit_width": 5,
    "score_bit_width": 2, "value_bit_width": 2, "attention_bit_width": 2,
    "head_weight_bit_width": 3, "head_sum_bit_width": 10,
}  # fmt: skip
# One of several blocks with norms.
_DEEP_WORDS: dict[str, Any] = {
    **_WORDS, "act_narrow": True, "stream_accumulator_bit_width": 5, "residual_bit_width": 3,
    "branch_bit_width": 2, "norm_bit_width": 2, "rsqrt_bit_width": 2, "softmax_bit_width": 3,
    "exp_bit_width": 3, "statistic_bit_width": 5, "head_sum_bit_width": 8,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "words": _WORDS,
    "words-gpt2": _DEEP_WORDS,
    "words-llama": _DEEP_WORDS,
    "tiny-words": _WORDS,
    "tiny-gpt2": _DEEP_WORDS,
    "tiny-llama": _DEEP_WORDS,
    "digits-small": _SMALL,
    "digits-fast": _FOUR_BITS,
    "digits-standard": _STANDARD,
    "digits-table": _STANDARD,
    "tiny": _TINY,
}
