"""The stupid model beside a transformer: one hidden layer of all numbers at once, a table a unit.

What a transformer does not do better than this, with as many bootstraps, its attention is not for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusformer.models.task import Task
from torusformer.quantize.config import QuantConfig
from torusformer.quantize.convert import calibrate
from torusformer.quantize.heads import QuantHead
from torusformer.quantize.layers import RoundedLinear, in_a_row
from torusformer.quantize.parts import QuantFeatures
from torusformer.quantize.quantizers import ActQuant
from torusformer.quantize.training import TrainConfig, evaluate, train

RING = 4  # bits of the hidden layer's tables


class FloatMLP(nn.Module):
    """(B, tokens, features) to (B, classes) through `hidden` units."""

    def __init__(self, inputs: int, hidden: int, classes: int, scale: float) -> None:
        """`scale` divides the inputs."""
        super().__init__()
        self.scale = scale
        self.up, self.down = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.down(nn.functional.hardtanh(self.up(x.flatten(1) / self.scale)))
        return logits


class QuantMLP(nn.Module):
    """The same in ternary weights, sums that wrap, codes of three levels."""

    def __init__(self, source: FloatMLP, config: QuantConfig) -> None:
        """Inputs and head as `config` has them."""
        super().__init__()
        self.input = QuantFeatures(config, 1 / source.scale)
        up, down = source.up, source.down
        weight = up.weight.detach().repeat_interleave(config.input_codes, dim=1)
        self.up = RoundedLinear(
            weight, up.bias.detach(), config, input_span=config.input_span, ring=RING
        )
        self.code = ActQuant(2, narrow=True)
        self.down = QuantHead(down.weight.detach(), down.bias.detach(), config, input_span=2)

    @property
    def input_quant(self) -> ActQuant:
        """The client's grid."""
        return self.input.quant

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.down(self.code(self.up(in_a_row(self.input(x)))))
        return logits


def mlp_accuracy(
    task: Task, bootstraps: int, config: QuantConfig, recipe: TrainConfig, *, progress: bool = True
) -> float:
    """The task's measure of an MLP with as many hidden units, trained as the transformer was."""
    torch.manual_seed(recipe.seed)
    inputs = task.x_train[0].size
    source = FloatMLP(inputs, bootstraps, task.num_classes, task.input_scale)
    train(source, task, recipe, progress=progress)
    twin = QuantMLP(source, config)
    calibrate(twin, task.x_train)
    train(twin, task, recipe, teacher=source, quantized=True, progress=progress)
    return evaluate(twin, task)
