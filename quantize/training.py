"""Training: a float or a quantized transformer, a task and a frozen recipe in, weights learned."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from torusformer.config import Config
from torusformer.models.presets import preset
from torusformer.models.task import Task, known_targets
from torusformer.progress import Progress
from torusformer.quantize.augment import Augment
from torusformer.quantize.guidance import LayerLoss
from torusformer.quantize.quantizers import ActQuant
from torusformer.quantize.rings import folded_shares, penalty, watched
from torusformer.quantize.transformer import QuantTransformer

EVALUATION_BATCH = 512
MOSTLY = 0.2  # of a layer's sums beyond their fold: a warning
Number = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class TrainConfig(Config):
    """A recipe. `float_*` fields serve a float model, `qat_*` fields a quantized one.

    `distillation` is the share of the loss that compares with a teacher's logits, softened by
    `temperature`. `augment` is how far images move at random: 0 not at all, 1 up to a pixel,
    ten degrees and a tenth of their size; `elastic` is how far parts of them move on their own,
    as a standard deviation in pixels. Both must be 0 where samples are no square images. `z_loss`
    weighs the squared logarithm of the sum of the logits' exponentials (arXiv 2204.02311): logits
    are log-probabilities then, and of a model that writes the largest lies where it is looked for.
    Of texts that are padded, a share of `word_dropout` of the tokens is padding in training (deep
    averaging networks, ACL P15-1162). `fold_penalty` weighs how far sums that wrap reach beyond
    what their tables read rightly, see `quantize.rings`.
    """

    float_epochs: Number = 60
    qat_epochs: Number = 60
    batch_size: Annotated[int, Field(ge=2)] = 64
    float_learning_rate: Positive = 3e-3
    qat_learning_rate: Positive = 2e-3
    scale_learning_rate: Positive = 1e-2
    weight_decay: NotNegative = 0.01
    distillation: Share = 0.5
    temperature: Positive = 2.0
    label_smoothing: Share = 0.0
    z_loss: NotNegative = 0.0
    fold_penalty: NotNegative = 0.05
    augment: NotNegative = 1.0
    word_dropout: Share = 0.0
    elastic: NotNegative = 0.0
    seed: Number = 0

    @classmethod
    def from_name(cls, name: str) -> TrainConfig:
        """The recipe that goes with the model preset of that name."""
        return cls.from_dict(preset(name, "training"))


@dataclass(frozen=True)
class History:
    """What a run of training did: mean loss an epoch, the task's measure at its end, seconds.

    `folded`: by layer, the share of sums of training samples that lie beyond half their ring.
    """

    losses: tuple[float, ...]
    train: float
    test: float
    seconds: float
    folded: Mapping[str, float] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to look at: layers most of whose sums do not say what they should."""
        return tuple(
            f"{layer}: {share:.0%} of its sums lie beyond half their ring, where tables read them"
            f" with the wrong sign (limit {MOSTLY:.0%}); give it more bits in rings, or raise"
            " fold_penalty"
            for layer, share in self.folded.items()
            if share > MOSTLY
        )


@torch.no_grad()
def folds(model: nn.Module, x: NDArray[np.generic]) -> dict[str, float]:
    """By layer, the share of sums of samples x that lie beyond half their ring."""
    with watched(model) as sums:
        model(torch.as_tensor(x[:EVALUATION_BATCH]))
    return folded_shares(model, sums)


@torch.no_grad()
def predict(model: nn.Module, x: NDArray[np.generic] | Tensor) -> NDArray[np.float32]:
    """Logits (N, ...) in eval mode."""
    was_training = model.training
    model.eval()
    parts = [model(part) for part in torch.as_tensor(x).split(EVALUATION_BATCH)]
    model.train(was_training)
    return torch.cat(parts).numpy()


def evaluate(model: nn.Module, task: Task, *, of_training: bool = False) -> float:
    """The task's measure on its held-out samples: share of right classes, or nats a token."""
    x, y = (task.x_train, task.y_train) if of_training else (task.x_test, task.y_test)
    was_training, total, count = model.training, 0.0, 0
    model.eval()
    if of_training and task.padding is not None:  # most texts are far shorter than the longest
        parts = [(b.x, b.y) for b in task.batches(EVALUATION_BATCH, torch.Generator())]
    else:
        tensors = (torch.from_numpy(a).split(EVALUATION_BATCH) for a in (x, y))
        parts = list(zip(*tensors, strict=True))
    with torch.no_grad():
        for part, target in parts:
            logits = model(part)
            total += task.measured(logits, target)
            count += len(known_targets(logits, target)[1])
    model.train(was_training)
    return total / count


def optimizer_for(model: nn.Module, config: TrainConfig, rate: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only; learned scales have a rate of their own."""
    scales = {id(m.log_scale) for m in model.modules() if isinstance(m, ActQuant)}
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    learned_scales: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            group = (
                learned_scales
                if id(parameter) in scales
                else decayed
                if parameter.ndim > 1
                else plain
            )
            group.append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay, "lr": rate},
            {"params": plain, "weight_decay": 0.0, "lr": rate},
            {"params": learned_scales, "weight_decay": 0.0, "lr": config.scale_learning_rate},
        ]
    )


def _loss(logits: Tensor, y: Tensor, teacher: Tensor | None, config: TrainConfig) -> Tensor:
    flat, known = known_targets(logits, y)
    hard = nn.functional.cross_entropy(
        flat, known, label_smoothing=config.label_smoothing, reduction="sum"
    ) / max(1, len(known))
    if config.z_loss:
        hard = hard + config.z_loss * torch.logsumexp(flat, -1).square().mean()
    if teacher is None:
        return hard
    t, wanted = config.temperature, known_targets(teacher, y)[0]
    if y.ndim == 1:  # a class that nobody named has a teacher's answer all the same
        flat, wanted = logits, teacher
    soft = nn.functional.kl_div(
        torch.log_softmax(flat / t, dim=1),
        torch.log_softmax(wanted / t, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - config.distillation) * hard + config.distillation * t * t * soft


def train(
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    layers: LayerLoss | None = None,
    quantized: bool | None = None,
    label: str | None = None,
    progress: bool = True,
) -> History:
    """Train in place on the task's training half; the same seed gives the same weights.

    A quantized model must be calibrated; `teacher`, who is asked the same samples, is usually the
    float model it came from. With `layers` a float model also learns its teacher's hidden states
    and attention. Of a model of another kind than ours, say whether it is `quantized`. `label` is
    what its progress is called.

    Raises:
        InputError: `augment` is not 0 and the samples are no square images.
    """
    quantized = isinstance(model, QuantTransformer) if quantized is None else quantized
    epochs = config.qat_epochs if quantized else config.float_epochs
    rate = config.qat_learning_rate if quantized else config.float_learning_rate
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    augment = Augment(
        task.patch, task.input_shape, config.augment, generator, task.image, config.elastic
    )
    learning = model if layers is None else nn.ModuleList([model, layers])
    optimizer = optimizer_for(learning, config, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(1, epochs * task.batch_count(config.batch_size)),
        pct_start=0.1,
    )
    if not config.distillation and layers is None:
        teacher = None
    if teacher is not None:
        teacher.eval()
    losses: list[float] = []
    start = time.monotonic()
    model.train()
    label = label or ("quantized training" if quantized else "float training")
    bar = Progress(label, total=epochs, stream=None if progress else io.StringIO())
    with bar, nullcontext() if layers is None else layers.watching():
        for _ in range(epochs):
            total = 0.0
            for x, y, answers in task.batches(config.batch_size, generator):
                batch = augment(x)
                if config.word_dropout and task.padding is not None:
                    dropped = torch.rand(batch.shape, generator=generator) < config.word_dropout
                    batch = batch.masked_fill(dropped, task.padding)
                with torch.no_grad():
                    wanted = answers if teacher is None else teacher(batch)
                if not config.distillation:
                    wanted = None
                with watched(model) as sums:
                    loss = _loss(model(batch), y, wanted, config)
                if sums:
                    loss = loss + config.fold_penalty * penalty(sums)
                if layers is not None:
                    loss = loss + layers()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(x)
            losses.append(total / len(task.x_train))
            bar.advance(f"loss {losses[-1]:.3f}")
    model.eval()
    of_training, held_out = (evaluate(model, task, of_training=which) for which in (True, False))
    seconds = time.monotonic() - start
    return History(tuple(losses), of_training, held_out, seconds, folds(model, task.x_train))
