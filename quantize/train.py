"""Training of float and quantized transformers: a model, a task and a frozen recipe in."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torusformer import InputError
from torusformer.models.tasks import Task
from torusformer.models.transformer import Transformer
from torusformer.progress import Progress
from torusformer.quantize.augment import Augment
from torusformer.quantize.quantizers import ActQuant
from torusformer.quantize.transformer import QuantTransformer

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class TrainConfig:
    """A recipe. `float_*` fields serve a float model, `qat_*` fields a quantized one.

    `distillation` is the share of the loss that compares with a teacher's logits, softened by
    `temperature`. `augment` is how far images move at random: 0 not at all, 1 up to a pixel,
    ten degrees and a tenth of their size; tokens that are not images stay as they are. `z_loss`
    weighs the squared logarithm of the sum of a decoder's exponentials (arXiv 2204.02311): its
    logits are log-probabilities then, and the largest lies where the closing looks for it.
    """

    float_epochs: int = 60
    qat_epochs: int = 60
    batch_size: int = 64
    float_learning_rate: float = 3e-3
    qat_learning_rate: float = 2e-3
    scale_learning_rate: float = 1e-2
    weight_decay: float = 0.01
    distillation: float = 0.5
    temperature: float = 2.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    augment: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers no run can use."""
        for name, least in (("float_epochs", 0), ("qat_epochs", 0), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}")
        for name in ("float_learning_rate", "qat_learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a positive number")
        if not 0 <= self.distillation <= 1:
            raise InputError(f"distillation is {self.distillation}; give a share from 0 to 1")

    def replace(self, **changes: Any) -> TrainConfig:
        """A validated copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_name(cls, name: str) -> TrainConfig:
        """The recipe that goes with the model preset of that name."""
        if name not in PRESETS:
            raise InputError(f"no preset named {name!r}; choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])


_STANDARD: dict[str, Any] = {
    "float_epochs": 100, "qat_epochs": 250, "augment": 0.3, "qat_learning_rate": 8e-3,
}  # fmt: skip
_WORDS: dict[str, Any] = {
    "float_epochs": 20, "qat_epochs": 20, "batch_size": 256, "float_learning_rate": 6e-3,
    "qat_learning_rate": 1.2e-2, "distillation": 0.3, "temperature": 1.0, "augment": 0.0,
    "z_loss": 0.01,
}  # fmt: skip
_TINY_WORDS: dict[str, Any] = {**_WORDS, "float_epochs": 8, "qat_epochs": 4}

PRESETS: dict[str, dict[str, Any]] = {
    "words": {**_WORDS, "qat_epochs": 40},
    "words-gpt2": _WORDS,
    "words-llama": _WORDS,
    "tiny-words": _TINY_WORDS,
    "tiny-gpt2": _TINY_WORDS,
    "tiny-llama": _TINY_WORDS,
    "digits-small": {"qat_epochs": 300, "augment": 0.3, "qat_learning_rate": 5e-3},
    "digits-fast": {"qat_epochs": 400, "augment": 0.3, "qat_learning_rate": 5e-3},
    "digits-standard": _STANDARD,
    "digits-table": _STANDARD,
    "tiny": {"float_epochs": 20, "qat_epochs": 10, "augment": 0.0, "qat_learning_rate": 5e-3},
}


@dataclass(frozen=True)
class History:
    """What a run of training did: mean loss an epoch, final accuracies, seconds."""

    losses: tuple[float, ...]
    train_accuracy: float
    test_accuracy: float
    seconds: float


@torch.no_grad()
def predict(model: nn.Module, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
    """Logits (N, num_classes) in eval mode."""
    was_training = model.training
    model.eval()
    parts = [model(part) for part in torch.as_tensor(x).split(EVALUATION_BATCH)]
    model.train(was_training)
    return torch.cat(parts).numpy()


def evaluate(model: nn.Module, x: NDArray[np.float32] | Tensor, y: NDArray[np.int64]) -> float:
    """Share of samples whose largest logit is at their class."""
    return float((predict(model, x).argmax(axis=1) == np.asarray(y)).mean())


def optimizer_for(model: nn.Module, config: TrainConfig, rate: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only; learned scales have a rate of their own."""
    scales = {id(m.log_scale) for m in model.modules() if isinstance(m, ActQuant)}
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    steps: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            group = steps if id(parameter) in scales else decayed if parameter.ndim > 1 else plain
            group.append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay, "lr": rate},
            {"params": plain, "weight_decay": 0.0, "lr": rate},
            {"params": steps, "weight_decay": 0.0, "lr": config.scale_learning_rate},
        ]
    )


def _loss(logits: Tensor, y: Tensor, target: Tensor | None, config: TrainConfig) -> Tensor:
    hard = nn.functional.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
    if target is None:
        return hard
    t = config.temperature
    soft = nn.functional.kl_div(
        torch.log_softmax(logits / t, dim=1),
        torch.log_softmax(target / t, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - config.distillation) * hard + config.distillation * t * t * soft


def train(
    model: Transformer | QuantTransformer,
    task: Task,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    progress: bool = True,
) -> History:
    """Train in place on the task's training half; the same seed gives the same weights.

    A quantized model must be calibrated; `teacher` is usually the float model it came from.
    """
    quantized = isinstance(model, QuantTransformer)
    epochs = config.qat_epochs if quantized else config.float_epochs
    rate = config.qat_learning_rate if quantized else config.float_learning_rate
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    x, y = torch.from_numpy(task.x_train), torch.from_numpy(task.y_train)
    augment = Augment(task.patch, task.input_shape, config.augment, generator)
    steps = math.ceil(len(x) / config.batch_size)
    optimizer = optimizer_for(model, config, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(1, epochs * steps),
        pct_start=0.1,
    )
    if teacher is not None:
        teacher.eval()
    losses: list[float] = []
    start = time.monotonic()
    model.train()
    label = "quantized training" if quantized else "float training"
    with Progress(label, total=epochs, stream=None if progress else io.StringIO()) as bar:
        for _ in range(epochs):
            total = 0.0
            for index in torch.randperm(len(x), generator=generator).chunk(steps):
                batch = augment(x[index])
                with torch.no_grad():
                    target = teacher(batch) if teacher is not None else None
                loss = _loss(model(batch), y[index], target, config)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(index)
            losses.append(total / len(x))
            bar.advance(f"loss {losses[-1]:.3f}")
    model.eval()
    return History(
        tuple(losses),
        evaluate(model, task.x_train, task.y_train),
        evaluate(model, task.x_test, task.y_test),
        time.monotonic() - start,
    )
