"""A number of bits in, the bit widths that a planned transformer gets out.

They are what `QuantConfig` calls them, of a recipe in which every count follows from the shape:
ternary weights, codes of an odd number of levels, sums that a code reads in a ring, and all that
is proved rounded to one width. Nothing here imports torch: a plan is there in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torusformer import InputError

FEWEST, MOST = 2, 4
MOST_SUM_BITS = 8
TERNARY_SHARE = 0.54  # of weights that are not zero: least squares on a normal distribution
RSQRT_BITS = 2
HEAD_WEIGHT_BITS, HEAD_SUM_BITS = 3, 10
HEAD_MEAN, HEAD_SQUARE = 2.2, 6.0  # of the magnitudes of its weights, in the widest row
INPUT_BITS = 2  # of a feature, sent as a unary code


@dataclass(frozen=True)
class Range:
    """Integers from `lo` to `hi`."""

    lo: int
    hi: int

    @property
    def span(self) -> int:
        """Highest less lowest."""
        return self.hi - self.lo


@dataclass(frozen=True)
class PlannedBits:
    """`act` bits of what linear layers read; proved sums are read at `sums` bits.

    With `wraps`, sums that a code alone reads are not proved: tables of `act` + 1 bits read them.
    """

    act: int = 2
    sums: int = 4
    wraps: bool = True

    @classmethod
    def of(cls, act: int, sums: int | None = None, *, wraps: bool = True) -> PlannedBits:
        """Sums are two bits wider than codes where nobody says how wide.

        Raises:
            InputError: no recipe has so many bits, or so few for its sums.
        """
        if not FEWEST <= act <= MOST:
            raise InputError(f"{act} bits are not planned; ask for {FEWEST} to {MOST}")
        sums = act + 2 if sums is None else sums
        if not act + 2 <= sums <= MOST_SUM_BITS:
            raise InputError(
                f"sums of {sums} bits are not planned with codes of {act}; ask for {act + 2} to"
                f" {MOST_SUM_BITS}"
            )
        return cls(act, sums, wraps)

    @cached_property
    def code(self) -> Range:
        """Of either sign, an odd number of levels."""
        return Range(1 - 2 ** (self.act - 1), 2 ** (self.act - 1) - 1)

    @cached_property
    def full_code(self) -> Range:
        """Of either sign, all levels."""
        return Range(-(2 ** (self.act - 1)), 2 ** (self.act - 1) - 1)

    @cached_property
    def positive(self) -> Range:
        """Without a sign, an odd number of levels: hidden units and attention's weights."""
        return Range(0, 2**self.act - 2)

    @cached_property
    def stream(self) -> Range:
        """Where the residual stream begins."""
        return Range(1 - 2**self.act, 2**self.act - 1)

    @cached_property
    def score(self) -> Range:
        """What softmax reads, and the logarithm that it takes off."""
        return Range(-(2 ** (self.softmax - 1)), 2 ** (self.softmax - 1) - 1)

    @cached_property
    def exponential(self) -> Range:
        """Of a score."""
        return Range(0, 2 ** (self.act + 1) - 1)

    @cached_property
    def square(self) -> Range:
        """Of what is left of the stream in a norm."""
        return Range(0, self.full_code.lo**2)

    def raw_sums(self, dim: int, *, post_norm: bool) -> int:
        """Bits of a group's sum in a norm before it is rounded: so many that few groups are left.

        Each of them keeps at least two bits then.
        """
        widest = self.square.span
        if post_norm:  # its mean is measured, too
            widest = max(widest, self.stream.span + self.code.span)
        return max(self.sums + 2, (widest * dim).bit_length() - (self.sums - 2))

    @property
    def softmax(self) -> int:
        """Bits of scores: one more than most tables read, which its wide sums then leave cheap."""
        return self.act + 2

    @property
    def ring(self) -> int:
        """Bits of the table that reads a sum that wraps."""
        return self.act + 1

    def settings(
        self, dim: int, *, gated: bool, token_ids: bool, post_norm: bool
    ) -> dict[str, Any]:
        """The same as `QuantConfig.from_dict` takes it: what to train to get what was planned."""
        wrapping = ["query", "key", "value", "context", "out", "down", *["up"] * gated]
        return {
            "act_bit_width": self.act,
            "act_narrow": True,
            "sum_bit_width": self.sums,
            "accumulator_bit_width": self.sums,
            "stream_accumulator_bit_width": self.sums,
            "statistic_bit_width": self.sums,
            "raw_sum_bit_width": self.raw_sums(dim, post_norm=post_norm),
            "residual_bit_width": self.act + 1,
            "branch_bit_width": self.act,
            "norm_bit_width": self.act,
            "rsqrt_bit_width": RSQRT_BITS,
            "score_bit_width": self.act,
            "score_narrow": True,
            "value_bit_width": self.act,
            "value_narrow": True,
            "attention_bit_width": self.act,
            "attention_narrow": True,
            "softmax_bit_width": self.softmax,
            "exp_bit_width": self.act + 1,
            "head_weight_bit_width": HEAD_WEIGHT_BITS,
            "head_sum_bit_width": HEAD_SUM_BITS,
            "input_bit_width": INPUT_BITS,
            "input_unary": not token_ids,
            "token_input": "lookup" if token_ids else None,
            "rings": dict.fromkeys(wrapping, self.ring) if self.wraps else {},
        }
