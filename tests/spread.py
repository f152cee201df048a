"""Scales for a twin that nobody trained: every code of every table occurs, as in a trained one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tests.twins import samples
from torusformer.quantize import QuantTransformer
from torusformer.quantize.quantizers import ActQuant

# What a branch of the residual stream is made by: it lies on the stream's grid.
BRANCHES = {"attention_quant": "out", "mlp_quant": "down"}


@torch.no_grad()
def spread(twin: QuantTransformer) -> QuantTransformer:
    """The twin with scales by what each quantizer reads first, one forward pass for all."""
    names = {id(module): name for name, module in twin.named_modules()}
    placed: set[int] = set()
    config = twin.config
    step = 0.4 / 2 ** (config.act_bit_width - 2)  # of scores: exponentials take all their codes
    top = 2 ** (config.softmax_bit_width - 1) - 1

    def scale_of(last: str, parent: nn.Module, quant: ActQuant, largest: float) -> float:
        lo, hi = float(quant.lo), float(quant.hi)
        if last == "rsqrt_quant":  # as many codes as the root of the least and largest sum allow
            unit = float(parent.get_submodule("centred_quant").log_scale.exp2())
            return 2.2 / (2 ** (config.norm_bit_width - 1) * unit)
        if last == "score_quant":
            return step
        if last == "exp_quant":
            return math.exp(step * top) / hi
        if last == "weight_quant":  # so that not only the least difference weighs nothing
            lost = max(0, config.softmax_bit_width + 1 - config.accumulator_bit_width)
            lowest = -(2**config.softmax_bit_width - 1) >> lost
            return 1.6 * math.exp(step * 2**lost * (lowest + 1))
        return max(1e-12, largest) / (-lo if lo < 0 else hi)

    def place(quant: ActQuant, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        name = names[id(quant)]
        block, _, last = name.rpartition(".")
        parent, largest = twin.get_submodule(block), float(inputs[0].abs().max())
        if last in BRANCHES:  # the map's weights grow instead
            linear = parent.get_submodule(BRANCHES[last])
            ratio = 1.2 * float(quant.hi * quant.log_scale.exp2()) / max(1e-12, largest)
            linear.linear.weight.mul_(ratio)
            linear.bias.mul_(ratio)
            return (inputs[0] * ratio,)
        if not quant.is_fixed and id(quant.log_scale) not in placed:
            placed.add(id(quant.log_scale))
            quant.set_scale(scale_of(last, parent, quant, largest))
        return None

    handles = [
        module.register_forward_pre_hook(place)
        for module in twin.modules()
        if isinstance(module, ActQuant)
    ]
    twin(samples(twin.model_config, 64))
    for handle in handles:
        handle.remove()
    return twin
