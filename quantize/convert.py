"""Float transformer in, quantized transformer with the same weights out; then its scales."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torusformer.models.norms import BatchNorm
from torusformer.models.transformer import Transformer
from torusformer.quantize.attention import QuantQueryAttention, QuantTableAttention, asked
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.folded import skipped
from torusformer.quantize.layers import RoundedLinear
from torusformer.quantize.quantizers import ActQuant
from torusformer.quantize.transformer import QuantTransformer

CALIBRATION_SAMPLES = 512
TIE_MARGIN = 1e-3


def copy_linear(source: nn.Linear, target: RoundedLinear) -> None:
    """Weight and bias."""
    target.linear.weight.data.copy_(source.weight)
    target.bias.data.copy_(source.bias)


def copy_norm(source: nn.Module, target: nn.Module) -> None:
    """Gain and shift; a float model without norms leaves the target as it is."""
    if isinstance(source, nn.Identity):
        return
    gain, shift = source.folded() if isinstance(source, BatchNorm) else (source.weight, source.bias)
    target.weight.data.copy_(gain)
    target.bias.data.copy_(shift)


@torch.no_grad()
def to_qat(model: Transformer, config: QuantConfig) -> QuantTransformer:
    """Quantize a trained float model; `calibrate` it next, then train on."""
    qat = QuantTransformer(model.config, config)
    if qat.folded is not None:
        qat.folded.fold(model.eval())
        return qat
    # Scales of weights start from the weights, so these are copied before the first forward.
    qat.embed.linear.weight.copy_(model.embed.weight.repeat_interleave(config.input_codes, dim=1))
    qat.embed.bias.copy_(model.embed.bias)
    qat.head.linear.weight[:, : model.config.dim] = model.head.weight
    qat.head.bias.copy_(model.head.bias)
    if model.config.skip:
        linear, added = skipped(model, config.input_codes)
        qat.head.linear.weight[:, model.config.dim :] = linear
        qat.head.bias.add_(added)
    copy_norm(model.norm, qat.norm)
    qat.positions.copy_(model.positions)
    for source, target in zip(model.blocks, qat.blocks, strict=True):
        copy_norm(source.norm1, target.norm1)
        copy_norm(source.norm2, target.norm2)
        if isinstance(target.attention, QuantTableAttention):
            target.attention.tables.copy_(source.attention.tables)
        asks = isinstance(target.attention, QuantQueryAttention)
        for name in ("value", "out") if asks else ("query", "key", "value", "out"):
            copy_linear(getattr(source.attention, name), getattr(target.attention, name))
        if asks:
            target.query.copy_(model.query)
            target.attention.score.linear.weight.copy_(asked(source.attention, model.query))
        copy_linear(source.up, target.up)
        copy_linear(source.down, target.down)
    if model.config.norm == "layer" and config.fold_mean:
        _fold_mean(qat)
    return qat


def _fold_mean(qat: QuantTransformer) -> None:
    """Let nothing with a mean over channels into the residual stream; layer norms stay the same."""
    writers = [qat.embed, *(w for b in qat.blocks for w in (b.attention.out, b.down))]
    for layer in writers:
        assert isinstance(layer, RoundedLinear)
        layer.linear.weight.sub_(layer.linear.weight.mean(0))
        layer.bias.sub_(layer.bias.mean())
    qat.positions.sub_(qat.positions.mean(1, keepdim=True))
    if isinstance(qat.blocks[-1].attention, QuantQueryAttention):
        query = qat.blocks[-1].query
        query.sub_(query.mean())


def best_scale(values: Tensor, lo: float, hi: float) -> float:
    """The scale with the least squared error when `values` are clipped to [lo, hi] steps."""
    values = values.flatten()[:200_000]
    top = max(float(values.max()) / max(hi, 1), float(values.min()) / lo if lo < 0 else 0.0)
    if top <= 0:
        return 1.0
    best, best_error = top, float("inf")
    for fraction in np.geomspace(0.02, 1.0, 60):
        scale = top * float(fraction)
        error = float(
            ((torch.clamp(torch.round(values / scale), lo, hi) * scale - values) ** 2).mean()
        )
        if error < best_error:
            best, best_error = scale, error
    return best


@torch.no_grad()
def calibrate(qat: QuantTransformer, x: NDArray[np.float32] | Tensor) -> None:
    """Set every activation scale from samples `x` (N, tokens, features), first layer first.

    Quantizers on one grid (residual stream, scores and log-sums) pool what they see.
    """
    x = torch.as_tensor(x)[:CALIBRATION_SAMPLES]
    set_scales(qat, lambda: qat(x))
    scale = float(torch.exp2(qat.input_quant.log_scale))
    qat.input_quant.set_scale(_off_ties(scale, x))


@torch.no_grad()
def set_scales(model: nn.Module, run: Callable[[], object]) -> None:
    """Set the scale of every activation from what it sees while the model is `run`."""
    seen: dict[int, list[tuple[Tensor, float, float]]] = {}

    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, ActQuant)
        samples = seen.setdefault(id(module.log_scale), [])
        samples.append((inputs[0].detach(), float(module.lo), float(module.hi)))
        module.set_scale(max(best_scale(*s) for s in samples[-8:]))

    handles = [
        m.register_forward_pre_hook(partial(observe))
        for m in model.modules()
        if isinstance(m, ActQuant) and not m.is_fixed
    ]
    was_training = model.training
    model.train()
    for _ in range(2):  # the second pass knows every user of a shared grid
        run()
    for handle in handles:
        handle.remove()
    model.train(was_training)


def _off_ties(scale: float, x: Tensor) -> float:
    """Widen `scale` a little until no sample lies halfway between two codes.

    The client rounds in double precision and training in single: a tie could go either way.
    """
    for _ in range(100):
        steps = x / scale
        if float((steps - torch.floor(steps) - 0.5).abs().min()) > TIE_MARGIN:
            break
        scale *= 1 + 2 * TIE_MARGIN
    return scale
