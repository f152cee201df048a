"""What is known of tokens in, what following layers read of it out: no bootstrap yet."""

from __future__ import annotations

from torch import Tensor, nn

from torusformer.models.neighbours import rows_from, summed
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import AccumulatorRounding
from torusformer.quantize.quantizers import ActQuant, Grid, constant
from torusformer.quantize.rings import Folding


class KnownLinear(nn.Linear):
    """A float linear map of what is known of each token; of padding zero, if `zero_padding`."""

    def __init__(self, weight: Tensor, bias: Tensor, *, zero_padding: bool) -> None:
        """Starts from `weight` (out, in) and `bias` (out,)."""
        super().__init__(weight.shape[1], weight.shape[0])
        self.zero_padding = zero_padding
        self.weight.data.copy_(weight)
        self.bias.data.copy_(bias)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T, in) to (B, T, out); `keep` (B, T) is 0 where a token is padding."""
        found = super().forward(x)
        return found if keep is None or not self.zero_padding else found * keep.unsqueeze(-1)


class NeighbourSum(nn.Module):
    """Sums of a row for each of some neighbours, all in whole units; the next table reads them."""

    def __init__(
        self, rows: Tensor, config: QuantConfig, *, ring: int | None, padding: int | None
    ) -> None:
        """Starts from float `rows` (W, vocabulary, n); that of `padding` is zero and stays so."""
        super().__init__()
        self.near, self.padding = nn.Parameter(rows.clone()), padding
        # As many bits as the ring: a row alone is then read rightly, and most sums of rows are.
        bits = config.token_bit_width if ring is None else min(ring, config.token_bit_width)
        self.row_quant = ActQuant(bits, narrow=True)
        self.rounding = (
            AccumulatorRounding(config.accumulator_bit_width) if ring is None else Folding(ring)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) ids to (B, T, n)."""
        rows = [
            self.row_quant(row) for row in rows_from(map(constant, self.near), tokens, self.padding)
        ]
        total = summed(row.value for row in rows)
        one, count = rows[0], len(self.near)
        found: Tensor = self.rounding(Grid(total, one.scale, count * one.lo, count * one.hi)).value
        return found
