"""One single-head encoder block in torch and Brevitas that both compilers take.

Concrete ML 1.9 has no Softmax, no ReduceMean and no product of 4-D tensors, so the block keeps to
3-D tensors, one head, ReLU attention and a linear head over all tokens. Every sum that a table
reads is narrow by construction: weights by their L1 norm, the two products of ciphertexts by an
explicit rounding, in training as under encryption.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx
from brevitas.quant_tensor import QuantTensor
from numpy.typing import NDArray
from torch import Tensor, nn

from models import Task
from quantize.convert import best_scale
from quantize.quantizers import ActQuant, BoundedWeight, Grid

OPSET = 16
BATCH = 64
SEEDS = 5
LEAST_LIVING = 0.05


@dataclass(frozen=True)
class BlockConfig:
    """Shape and bit widths; `sum_bit_width` is the widest sum of a linear layer."""

    tokens: int = 8
    features: int = 8
    dim: int = 16
    mlp_dim: int = 32
    num_classes: int = 10
    act_bit_width: int = 4
    weight_bit_width: int = 3
    sum_bit_width: int = 6
    epochs: int = 60
    learning_rate: float = 5e-3
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


class PowerOfTwoRounding(nn.Module):
    """Rounds a product of ciphertexts to a multiple of 2^k of its own step, k fixed beforehand.

    Half a step is subtracted, so that no integer lies between two multiples.
    """

    def __init__(self, lsbs: int, bit_width: int) -> None:
        """`bit_width` bits are enough for what is left: nothing is clipped."""
        super().__init__()
        self.lsbs = lsbs
        self.quant = ActQuant(bit_width, share_scale_of=None)
        self.quant.log_scale.requires_grad_(False)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """`x`, a multiple of `scale`, on a grid of `scale * 2^lsbs`."""
        if self.lsbs > 0 and not torch.onnx.is_in_onnx_export():
            self.quant.log_scale.data.copy_(torch.log2(scale.detach()) + self.lsbs)
        if self.lsbs <= 0:
            return x
        value: Tensor = self.quant(x - (0.5 * scale).detach()).value
        return value


class Linear(nn.Module):
    """A bias-free Brevitas linear layer with a bounded sum, and its bias."""

    def __init__(self, inputs: int, outputs: int, config: BlockConfig, *, head: bool = False):
        super().__init__()
        limit = (2**config.sum_bit_width - 1) // (2**config.act_bit_width - 1)
        self.linear = qnn.QuantLinear(
            inputs,
            outputs,
            bias=False,
            weight_quant=BoundedWeight,
            weight_bit_width=config.weight_bit_width,
            weight_per_channel=not head,
            weight_l1_limit=float(4 * inputs if head else limit),
        )
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Grid) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        y = self.linear(x.value)
        return (y.value if isinstance(y, QuantTensor) else y) + self.bias


class Block(nn.Module):
    """Tokens (B, T, features) in, logits (B, classes) out."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        d, bits = config.dim, config.act_bit_width
        self.input_quant = ActQuant(bits, signed=False)
        self.input_quant.requires_grad_(False)
        self.embed = Linear(config.features, d, config)
        self.positions = nn.Parameter(torch.zeros(config.tokens, d))
        self.stream_quant = ActQuant(bits)
        self.query, self.key, self.value = (Linear(d, d, config) for _ in range(3))
        self.query_quant, self.key_quant, self.value_quant = (ActQuant(bits) for _ in range(3))
        product_bits = 2 * (bits - 1) + math.ceil(math.log2(d)) + 1
        self.score_rounding = PowerOfTwoRounding(product_bits - 5, 6)
        self.weight_quant = ActQuant(bits, signed=False)
        context_bits = 2 * bits - 1 + math.ceil(math.log2(config.tokens)) + 1
        self.context_rounding = PowerOfTwoRounding(context_bits - 5, 6)
        self.context_quant = ActQuant(bits)
        self.out = Linear(d, d, config)
        self.attention_quant = ActQuant(bits, share_scale_of=self.stream_quant)
        self.middle_quant = ActQuant(bits)
        self.up = Linear(d, config.mlp_dim, config)
        self.hidden_quant = ActQuant(bits, signed=False)
        self.down = Linear(config.mlp_dim, d, config)
        self.mlp_quant = ActQuant(bits, share_scale_of=self.middle_quant)
        self.last_quant = ActQuant(bits)
        self.head = Linear(config.tokens * d, config.num_classes, config, head=True)

    def forward(self, x: Tensor) -> Tensor:
        """One encoder block between an embedding and a head over all tokens."""
        stream = self.stream_quant(self.embed(self.input_quant(x)) + self.positions)
        q, k, v = (
            quant(layer(stream))
            for layer, quant in (
                (self.query, self.query_quant),
                (self.key, self.key_quant),
                (self.value, self.value_quant),
            )
        )
        scores = q.value @ k.value.transpose(1, 2)  # (B, T, T)
        scores = self.score_rounding(scores, q.scale * k.scale)
        weights = self.weight_quant(torch.relu(scores))
        context = weights.value @ v.value  # (B, T, d)
        context = self.context_quant(self.context_rounding(context, weights.scale * v.scale))
        branch = self.attention_quant(self.out(context))
        middle = self.middle_quant(stream.value + branch.value)
        hidden = self.hidden_quant(torch.relu(self.up(middle)))
        branch = self.mlp_quant(self.down(hidden))
        last = self.last_quant(middle.value + branch.value)
        return self.head(last._replace(value=last.value.flatten(1)))


@torch.no_grad()
def calibrate(block: Block, x: Tensor) -> None:
    """Set every scale of an activation from samples, first layer first."""

    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, ActQuant)
        module.set_scale(best_scale(inputs[0], float(module.lo), float(module.hi)))

    roundings = {id(m.quant) for m in block.modules() if isinstance(m, PowerOfTwoRounding)}
    handles = [
        m.register_forward_pre_hook(observe)
        for m in block.modules()
        if isinstance(m, ActQuant) and id(m) not in roundings
    ]
    block.train()
    block(x)
    for handle in handles:
        handle.remove()


def train_block(config: BlockConfig, task: Task) -> Block:
    """A trained block in eval mode; the same configuration gives the same weights.

    ReLU attention can die in training: no score is positive, and the block is a plain MLP, from
    which a compiler that learns ranges from samples drops the products. Such a block is trained
    anew from the next seed.
    """
    for seed in range(config.seed, config.seed + SEEDS):
        block = _train(config, task, seed)
        if living_share(block, task) >= LEAST_LIVING:
            return block
    raise RuntimeError(f"attention dies from {SEEDS} seeds; lower learning_rate")


@torch.no_grad()
def living_share(block: Block, task: Task) -> float:
    """Share of attention weights above zero, over training samples."""
    seen: list[Grid] = []
    handle = block.weight_quant.register_forward_hook(lambda _, __, weights: seen.append(weights))
    block.eval()(torch.from_numpy(task.x_train[:512]))
    handle.remove()
    return float((seen[0].value > 0).float().mean())


def _train(config: BlockConfig, task: Task, seed: int) -> Block:
    torch.manual_seed(seed)
    block = Block(config)
    x, y = torch.from_numpy(task.x_train), torch.from_numpy(task.y_train)
    calibrate(block, x[:512])
    steps = math.ceil(len(x) / BATCH)
    scales = {id(m.log_scale) for m in block.modules() if isinstance(m, ActQuant)}
    learned = [p for p in block.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if id(p) not in scales], "lr": config.learning_rate},
        {"params": [p for p in learned if id(p) in scales], "lr": config.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(1, config.epochs * steps), pct_start=0.1
    )
    generator = torch.Generator().manual_seed(seed)
    block.train()
    for _ in range(config.epochs):
        for index in torch.randperm(len(x), generator=generator).chunk(steps):
            loss = nn.functional.cross_entropy(block(x[index]), y[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(block.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return block.eval()


@torch.no_grad()
def accuracy(block: Block, task: Task) -> float:
    """Share of the held-out samples that the block gets right."""
    logits = block.eval()(torch.from_numpy(task.x_test))
    return float((logits.argmax(1).numpy() == task.y_test).mean())


@torch.no_grad()
def export_block(block: Block, x: NDArray[np.float32], path: Path) -> onnx.ModelProto:
    """Write the QONNX graph for one sample."""
    block.eval()
    sample = torch.from_numpy(x[:1])
    block(sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_qonnx(
            block,
            sample,
            export_path=str(path),
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits"],
            do_constant_folding=True,
        )
    return onnx.load(str(path))
