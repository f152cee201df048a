"""Logits: the head of classes, and that of the next token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusformer.quantize.config import QuantConfig
from torusformer.quantize.layers import ROUND_BITS, linear_of, quantized_weight
from torusformer.quantize.quantizers import Grid, constant, quantize_to
from torusformer.quantize.weight_quantizers import build_head


class QuantHead(nn.Module):
    """Logits of classes: one weight scale for all, a float bias that the client adds."""

    def __init__(
        self, weight: Tensor, bias: Tensor, config: QuantConfig, *, input_span: int
    ) -> None:
        """Starts from float `weight` (out, in) and `bias` (out,)."""
        super().__init__()
        self.linear = build_head(weight.shape[1], weight.shape[0], config, input_span=input_span)
        self.linear.weight.data.copy_(weight)
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Grid, known: Tensor | None = None) -> Tensor:
        """(B, in) to (B, out)."""
        assert known is None, "a classifier's head reads codes alone"
        return self.linear(x.value) + self.bias


class TokenHead(nn.Module):
    """Logits that compare as integers: bias and what a token alone adds come in whole units."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        config: QuantConfig,
        *,
        input_span: int,
        known: Tensor | None = None,
    ) -> None:
        """As `QuantHead`; `known` (out, k) is the map of what a token alone gives."""
        super().__init__()
        self.linear = build_head(weight.shape[1], weight.shape[0], config, input_span=input_span)
        self.linear.weight.data.copy_(weight)
        self.token = None if known is None else linear_of(known, bias)
        self.bias = nn.Parameter(bias.clone()) if known is None else None

    def forward(self, x: Grid, known: Tensor | None = None) -> Tensor:
        """(..., in) and what is known of each token (..., k) to (..., out)."""
        offset: Tensor | None = self.bias if self.token is None else self.token(known)
        assert offset is not None
        weight, weight_scale = quantized_weight(self.linear, x, training=self.training)
        unit = (weight_scale * x.scale).reshape(())
        if not torch.onnx.is_in_onnx_export():
            logits = nn.functional.linear(x.value, weight)
            return logits + quantize_to(offset, unit.detach(), ROUND_BITS)
        unit = constant(unit)
        logits = self.linear(x.value) + quantize_to(offset, unit, ROUND_BITS)
        # Whole units already; says so where everything is known but for the token.
        return quantize_to(logits, unit, ROUND_BITS)
