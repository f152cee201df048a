"""One single-head encoder block in torch and Brevitas that both compilers take.

Concrete ML 1.9 has no Softmax, no ReduceMean and no product of 4-D tensors, so the block keeps to
3-D tensors and one head, and its softmax is exp(s - log(sum(exp s))). Every sum that a table reads
is narrow by construction: weights by their L1 norm, the products of ciphertexts by an explicit
rounding, in training as under encryption.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import brevitas.nn as qnn
import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx
from brevitas.quant_tensor import QuantTensor
from numpy.typing import NDArray
from torch import Tensor, nn

from torusformer.models import Task
from torusformer.quantize.augment import Augment
from torusformer.quantize.convert import best_scale
from torusformer.quantize.quantizers import ActQuant, Grid, constant
from torusformer.quantize.weight_quantizers import BoundedWeight

Reads = Literal["all", "first"]

OPSET = 16
BATCH = 64
KEPT = 5  # bits of a product that a table reads


@dataclass(frozen=True)
class BlockConfig:
    """Shape and bit widths; `sum_bit_width` is the widest sum of a linear layer.

    The head reads "all" tokens, or the "first" and, past the block, every embedded one.
    """

    tokens: int = 8
    features: int = 8
    dim: int = 16
    score_dim: int = 16
    mlp_dim: int = 32
    num_classes: int = 10
    reads: Reads = "first"
    act_bit_width: int = 3
    score_bit_width: int = 2
    value_bit_width: int = 2
    attention_bit_width: int = 2
    softmax_bit_width: int = 3
    weight_bit_width: int = 3
    sum_bit_width: int = 5
    epochs: int = 80
    learning_rate: float = 5e-3
    augment: float = 0.3
    seed: int = 0

    @property
    def read_dim(self) -> int:
        """Numbers that the head reads."""
        return self.dim * (self.tokens + (self.reads == "first"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


class PowerOfTwoRounding(nn.Module):
    """Rounds a product of ciphertexts to a multiple of 2^k of its own step, k fixed beforehand.

    Half a step is subtracted, so that no integer lies between two multiples.
    """

    def __init__(self, span: int) -> None:
        """`span` is how far apart two results can be; five bits of that are kept."""
        super().__init__()
        self.lsbs = span.bit_length() - KEPT
        self.quant = ActQuant(KEPT + 1)  # never clips
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
        d, bits, tokens = config.dim, config.act_bit_width, config.tokens
        self.input_quant = ActQuant(bits, signed=False)
        self.input_quant.requires_grad_(False)
        self.embed = Linear(config.features, d, config)
        self.positions = nn.Parameter(torch.zeros(tokens, d))
        self.stream_quant = ActQuant(bits)
        self.query, self.key = (Linear(d, config.score_dim, config) for _ in range(2))
        self.value = Linear(d, d, config)
        self.query_quant, self.key_quant = (ActQuant(config.score_bit_width) for _ in range(2))
        self.value_quant = ActQuant(config.value_bit_width)
        top = 2 ** (config.score_bit_width - 1)
        self.score_rounding = PowerOfTwoRounding(2 * config.score_dim * top * top)
        self.score_quant = ActQuant(config.softmax_bit_width)
        self.exp_quant = ActQuant(3, signed=False)
        self.sum_rounding = PowerOfTwoRounding(tokens * 7)
        self.log_quant = ActQuant(config.softmax_bit_width, share_scale_of=self.score_quant)
        self.weight_quant = ActQuant(config.attention_bit_width, signed=False)
        most = (2**config.attention_bit_width - 1) * 2**config.value_bit_width
        self.context_rounding = PowerOfTwoRounding(tokens * most)
        self.context_quant = ActQuant(bits)
        self.out = Linear(d, d, config)
        self.attention_quant = ActQuant(bits, share_scale_of=self.stream_quant)
        self.middle_quant = ActQuant(bits)
        self.up = Linear(d, config.mlp_dim, config)
        self.hidden_quant = ActQuant(bits, signed=False)
        self.down = Linear(config.mlp_dim, d, config)
        self.mlp_quant = ActQuant(bits, share_scale_of=self.middle_quant)
        # What the head reads lies on one grid.
        share = self.stream_quant if config.reads == "first" else None
        self.last_quant = ActQuant(bits, share_scale_of=share)
        self.head = Linear(config.read_dim, config.num_classes, config, head=True)

    def forward(self, x: Tensor) -> Tensor:
        """One encoder block between an embedding and a head."""
        stream = self.stream_quant(self.embed(self.input_quant(x)) + self.positions)
        branch = self.attention_quant(self.out(self._attend(stream)))
        middle = self.middle_quant(stream.value + branch.value)
        hidden = self.hidden_quant(torch.relu(self.up(middle)))
        branch = self.mlp_quant(self.down(hidden))
        last = self.last_quant(middle.value + branch.value)
        if self.config.reads == "all":
            read = last.value.flatten(1)
        else:
            read = torch.cat([last.value[:, 0], stream.value.flatten(1)], dim=1)
        return self.head(last._replace(value=read))

    def _attend(self, stream: Grid) -> Grid:
        """softmax(q kᵀ) v of one head, (B, T, d) to (B, T, d)."""
        q, k, v = (
            quant(layer(stream))
            for layer, quant in (
                (self.query, self.query_quant),
                (self.key, self.key_quant),
                (self.value, self.value_quant),
            )
        )
        scores = self.score_rounding(q.value @ k.value.transpose(1, 2), q.scale * k.scale)
        p = self.score_quant(scores / math.sqrt(self.config.score_dim))  # (B, T, T)
        exp = self.exp_quant(torch.exp(p.value))
        total = self.sum_rounding(exp.value.sum(-1, keepdim=True), exp.scale)
        log = self.log_quant(torch.log(total + constant(0.5 * exp.scale)))
        weights = self.weight_quant(torch.exp(p.value - log.value))
        context = weights.value @ v.value
        return self.context_quant(self.context_rounding(context, weights.scale * v.scale))


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
    """A trained block in eval mode; the same configuration gives the same weights."""
    torch.manual_seed(config.seed)
    block = Block(config)
    x, y = torch.from_numpy(task.x_train), torch.from_numpy(task.y_train)
    calibrate(block, x[:512])
    steps = math.ceil(len(x) / BATCH)
    learned = [p for p in block.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(1, config.epochs * steps), pct_start=0.1
    )
    generator = torch.Generator().manual_seed(config.seed)
    augment = Augment(task.patch, task.input_shape, config.augment, generator)
    block.train()
    for _ in range(config.epochs):
        for index in torch.randperm(len(x), generator=generator).chunk(steps):
            loss = nn.functional.cross_entropy(block(augment(x[index])), y[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(block.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return block.eval()


@torch.no_grad()
def attention_spread(block: Block, task: Task) -> float:
    """How much a weight of attention differs between samples: its deviation, in steps, averaged.

    Zero means that attention is the same for every input.
    """
    seen: list[Grid] = []
    handle = block.weight_quant.register_forward_hook(lambda _, __, weights: seen.append(weights))
    block.eval()(torch.from_numpy(task.x_train[:512]))
    handle.remove()
    return float((seen[0].value / seen[0].scale).std(0).mean())


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
