"""Steps that all blocks share in, operations of a skeleton out: maps, codes, norms, sums."""

from __future__ import annotations

from dataclasses import dataclass, field

from torusformer.models.config import ModelConfig
from torusformer.pipelines.config_bits import RSQRT_BITS, TERNARY_SHARE, PlannedBits, Range
from torusformer.pipelines.skeleton import Skeleton, Value
from torusformer.pipelines.skeleton_products import Multiplier


@dataclass
class Steps:
    """A model's shape, bits, and where operations go."""

    model: ModelConfig
    bits: PlannedBits
    multiplier: Multiplier
    skeleton: Skeleton = field(init=False)

    def __post_init__(self) -> None:
        """Both write into one skeleton."""
        self.skeleton = self.multiplier.skeleton

    def _wraps(self, ring: str | None) -> bool:
        return ring is not None and self.bits.wraps

    def _linear(self, name: str, x: Value, out: int, ring: str | None) -> Value:
        """A map of ternary weights; of a sum that is proved, as many as fit into it."""
        inputs = x.shape[-1]
        if self._wraps(ring):
            count = TERNARY_SHARE * inputs
            lo = hi = 0
        else:
            limit = min((2**self.bits.sums - 1) // x.span, inputs)
            count = float(limit)
            lo, hi = (limit * end if x.lo < 0 else 0 for end in (x.lo, x.hi))
            if x.lo >= 0:  # weights of either sign: no matter where it begins
                lo, hi = 0, limit * x.hi
        return self.skeleton.sums(
            f"{name}.linear", (*x.shape[:-1], out), [(x, max(1.0, count))], lo, hi
        )

    def _read(self, layer: str, rounding: str, x: Value, codes: Range) -> Value:
        """The codes of a map's sum; where nothing bounds it, it wraps."""
        if x.span == 0:
            return self.skeleton.table(layer, x, codes.lo, codes.hi, ring=self.bits.ring)
        return self.skeleton.read(layer, x, self.bits.sums, codes.lo, codes.hi, rounding)

    def _norm(self, name: str, x: Value) -> Value:
        """RMS norm, of a stream with a mean layer norm, in tables."""
        s, b = self.skeleton, self.bits
        centred = self.model.post_norm and self.model.norm == "layer"
        if centred:
            total = self._group_sum(f"{name}.total", x)
            mean = Range(max(b.full_code.lo, x.lo), min(b.full_code.hi, x.hi))
            taken = s.table(name, total, mean.lo, mean.hi)
            x = s.sums(name, x.shape, [(x, 1), (taken, 1)], x.lo - mean.hi, x.hi - mean.lo)
        c = s.read(f"{name}.centred_quant.quant", x, b.sums, b.full_code.lo, b.full_code.hi,
                   f"{name}.input_rounding")  # fmt: skip
        place = f"{name}.total_1" if centred else f"{name}.total"
        squares = s.table(place, c, 0, b.square.hi, aligned=True)
        total = self._group_sum(place, squares)
        r = s.table(f"{name}.rsqrt_quant.quant", total, 0, 2**RSQRT_BITS - 1)
        out = f"{name}.out_quant.quant"
        return self.multiplier.fused(out, c, r, b.code.lo, b.code.hi, name)

    def _group_sum(self, layer: str, x: Value) -> Value:
        """As `quantize.layers.GroupedSum`: rounded group by group, then summed up."""
        s, b = self.skeleton, self.bits
        _, rows, n = x.shape
        groups = 1
        limit = 2 ** b.raw_sums(self.model.dim, post_norm=self.model.post_norm)
        while x.span * (n // groups) >= limit and n % (2 * groups) == 0:
            groups *= 2
        count = n // groups
        part = s.sums(layer, (1, rows, groups), [(x, count)], count * x.lo, count * x.hi)
        narrow, lsbs = s.rounded(layer, part, b.sums - (groups - 1).bit_length())
        if lsbs:
            narrow = s.table(layer, narrow, narrow.lo, narrow.hi, lsbs=lsbs)
        if groups == 1:
            return narrow
        lo, hi = groups * narrow.lo, groups * narrow.hi
        return s.sums(layer, (1, rows, 1), [(narrow, groups)], lo, hi)

    def _added(self, layer: str, x: Value, y: Value) -> Value:
        return self.skeleton.sums(layer, y.shape, [(x, 1), (y, 1)], x.lo + y.lo, x.hi + y.hi)

    def _first_rows(self, layer: str, x: Value, rows: int) -> Value:
        """Those that are read."""
        if x.shape[1] == rows:
            return x
        return self.skeleton.sums(layer, (1, rows, x.shape[2]), [(x, 1)], x.lo, x.hi)
