"""Brevitas quantizers for activations, and the grid their values live on."""

from __future__ import annotations

from typing import NamedTuple

import brevitas.nn as qnn
import torch
from brevitas.export.onnx.qonnx.function import BrevitasQuantFn
from brevitas.function.ops_ste import round_ste
from brevitas.inject import ExtendedInjector
from brevitas.inject.enum import FloatToIntImplType
from brevitas.proxy import ActQuantProxyFromInjector
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, nn

from torusformer.quantize.config import QuantConfig

Quantized = tuple[Tensor, Tensor, Tensor, Tensor]  # value, scale, zero point, bit width


class Grid(NamedTuple):
    """A float tensor that is scale * integer, with lo <= integer <= hi.

    `scale`, `lo` and `hi` are scalars or broadcast to `value`.
    """

    value: Tensor
    scale: Tensor
    lo: Tensor
    hi: Tensor

    def as_quant_tensor(self, *, training: bool) -> QuantTensor:
        """The same for a Brevitas layer."""
        lo, hi = self.lo.amin(), self.hi.amax()
        signed = bool(lo < 0)
        top = int(torch.maximum(hi, -lo - 1)) if signed else int(hi)
        bits = torch.tensor(float(top.bit_length() + signed))
        return QuantTensor(self.value, self.scale, torch.tensor(0.0), bits, signed, training)


def _extremes(bit_width: int, signed: bool, narrow: bool) -> tuple[float, float]:
    """Lowest and highest integer, as QONNX defines them."""
    if signed:
        return -(2.0 ** (bit_width - 1)) + narrow, 2.0 ** (bit_width - 1) - 1
    return 0.0, 2.0**bit_width - 1 - narrow


class LearnedGrid(nn.Module):
    """One scale a tensor, learned as its logarithm: the `tensor_quant` of `LearnedAct`."""

    def __init__(
        self, bit_width: int, signed: bool, narrow_range: bool, log_scale: nn.Parameter
    ) -> None:
        """`log_scale` () may belong to several grids, which then have the same unit."""
        super().__init__()
        self.log_scale = log_scale
        self.lo, self.hi = _extremes(bit_width, signed, narrow_range)
        self.register_buffer("bits", torch.tensor(float(bit_width)), persistent=False)
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)

    def forward(self, x: Tensor) -> Quantized:
        """Nearest point of the grid; gradients pass inside its range."""
        scale = torch.exp2(self.log_scale)
        value = torch.clamp(round_ste(x / scale), self.lo, self.hi) * scale
        return value, scale, self.zero, self.bits


class LearnedAct(ExtendedInjector):
    """Activation quantizer with a learned scale; give `bit_width`, `signed`, `log_scale`."""

    proxy_class = ActQuantProxyFromInjector
    tensor_quant = LearnedGrid
    float_to_int_impl_type = FloatToIntImplType.ROUND
    narrow_range = False


class ActQuant(nn.Module):
    """Any float tensor in, the nearest point of a learned grid out: one table when encrypted."""

    lo: Tensor
    hi: Tensor

    def __init__(
        self,
        bit_width: int,
        *,
        signed: bool = True,
        narrow: bool = False,
        share_scale_of: ActQuant | None = None,
    ) -> None:
        """`share_scale_of` puts this quantizer on another one's grid, so that values add.

        `narrow` leaves one integer out, the lowest if `signed` and else the highest: 2 bits are
        then -1, 0, 1 or 0, 1, 2.

        One bit is 0 or 1: the positive half of -1, 0, 1, since QONNX has no unsigned single bit.
        """
        super().__init__()
        self.is_fixed = False  # a scale that is given, not calibrated
        self.is_bit = bit_width == 1
        if self.is_bit:
            bit_width, signed, narrow = 2, True, True
        self.log_scale: nn.Parameter = (
            nn.Parameter(torch.zeros(())) if share_scale_of is None else share_scale_of.log_scale
        )
        self.quant = qnn.QuantIdentity(
            act_quant=LearnedAct,
            bit_width=bit_width,
            signed=signed,
            narrow_range=narrow,
            log_scale=self.log_scale,
            return_quant_tensor=True,
        )
        low, high = _extremes(bit_width, signed, narrow)
        low = 0.0 if self.is_bit else low
        self.register_buffer("lo", torch.tensor(low), persistent=False)
        self.register_buffer("hi", torch.tensor(high), persistent=False)

    def set_scale(self, scale: float) -> None:
        """Move to another grid."""
        self.log_scale.data.fill_(torch.log2(torch.tensor(scale)))

    def forward(self, x: Tensor) -> Grid:
        """Same shape out."""
        return self.again(torch.relu(x) if self.is_bit else x)

    def again(self, codes: Tensor) -> Grid:
        """What came out of this quantizer before, and in from outside."""
        q = self.quant(codes)
        return Grid(q.value, q.scale, self.lo, self.hi)


class SignGrid(nn.Module):
    """One scale, and the sign of a number: the `tensor_quant` of `LearnedSign`; zero stays zero."""

    def __init__(self, log_scale: nn.Parameter) -> None:
        """`log_scale` () is learned."""
        super().__init__()
        self.log_scale = log_scale
        self.register_buffer("bits", torch.tensor(2.0), persistent=False)
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)

    def forward(self, x: Tensor) -> Quantized:
        """-scale, 0 or scale; gradients pass up to that far."""
        scale = torch.exp2(self.log_scale)
        near = torch.clamp(x / scale, -1, 1)
        value = (near + (torch.sign(x) - near).detach()) * scale
        return value, scale, self.zero, self.bits


class LearnedSign(ExtendedInjector):
    """Activation quantizer of signs; give `log_scale`."""

    proxy_class = ActQuantProxyFromInjector
    tensor_quant = SignGrid
    float_to_int_impl_type = FloatToIntImplType.ROUND
    bit_width = 2
    signed = True
    narrow_range = True


class SignQuant(ActQuant):
    """Any float tensor in, -1 or 1 out, on a learned scale; zero, as a mask makes it, stays.

    Of a folded sum nothing is zero by itself.
    """

    def __init__(self) -> None:
        """One bit, though QONNX has it in two."""
        super().__init__(2, narrow=True)
        self.quant = qnn.QuantIdentity(
            act_quant=LearnedSign, log_scale=self.log_scale, return_quant_tensor=True
        )

    def forward(self, x: Tensor) -> Grid:
        """Same shape out."""
        if torch.onnx.is_in_onnx_export():  # a plain `Quant` node rounds
            x = torch.sign(x) * constant(torch.exp2(self.log_scale))
        return self.again(x)


def build_code(bit_width: int, *, narrow: bool) -> ActQuant:
    """Codes of either sign; one bit is the sign."""
    return SignQuant() if bit_width == 1 else ActQuant(bit_width, narrow=narrow)


def constant(x: Tensor) -> Tensor:
    """`x`; during export a copy that the tracer sees as a constant, not as a computation."""
    return torch.from_numpy(x.detach().numpy().copy()) if torch.onnx.is_in_onnx_export() else x


def quantize_to(x: Tensor, scale: Tensor, bit_width: int) -> Tensor:
    """Nearest multiple of a given `scale`, signed; one QONNX `Quant` node when exported."""
    if torch.onnx.is_in_onnx_export():
        zero, bits = torch.tensor(0.0), torch.tensor(float(bit_width))
        return BrevitasQuantFn.apply(x, constant(scale), zero, bits, False, True, "ROUND")
    top = 2.0 ** (bit_width - 1)
    return torch.clamp(round_ste(x / scale), -top, top - 1) * scale


def unary(n: Grid, x: Tensor) -> Grid:
    """(..., F) numbers 0 to k as (..., F * k) bits n >= 1, ..., n >= k, which sum up to n.

    `x` is what `n` is the quantized form of. When exported, the client rounds it to bits itself:
    one `Quant` node with a zero point for each bit.
    """
    levels = torch.arange(1, int(n.hi) + 1)
    if torch.onnx.is_in_onnx_export():
        thresholds = (levels - 0.5) * constant(n.scale)
        unit = 4 * thresholds[-1]  # so wide that rounding only tells above from below
        zero = 0.5 - thresholds / unit
        bits = BrevitasQuantFn.apply(
            x.unsqueeze(-1), unit, zero, torch.tensor(1.0), False, False, "ROUND"
        )
        value = (bits + constant(zero * unit)) * constant(n.scale / unit)
    else:
        whole = torch.round(n.value / n.scale).unsqueeze(-1)
        value = (whole >= levels).to(n.value.dtype) * n.scale
    return Grid(value.flatten(-2), n.scale, torch.tensor(0.0), torch.tensor(1.0))


def build_activation(
    config: QuantConfig,
    *,
    signed: bool = True,
    share_scale_of: ActQuant | None = None,
    bits: int | None = None,
) -> ActQuant:
    """What a linear layer reads: `bits`, else `act_bit_width`, of which one alone has no sign."""
    bits = bits or config.act_bit_width
    signed = signed and bits > 1
    return ActQuant(
        bits,
        signed=signed,
        narrow=config.act_narrow,
        share_scale_of=share_scale_of,
    )


def build_branch(config: QuantConfig, stream: ActQuant) -> ActQuant:
    """What is added to the residual stream, on the grid of `stream`."""
    return ActQuant(config.branch_bit_width, narrow=config.act_narrow, share_scale_of=stream)
