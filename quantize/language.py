"""Training of float and quantized decoders: a model, sequences and a frozen recipe in."""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torusformer.models.words import IGNORED, Sequences, WordsTask
from torusformer.progress import Progress
from torusformer.quantize.train import TrainConfig, optimizer_for

EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class LanguageHistory:
    """What a run of training did: mean loss an epoch, nats a token on the two parts, seconds."""

    losses: tuple[float, ...]
    train_nll: float
    dev_nll: float
    seconds: float


@torch.no_grad()
def nll(model: nn.Module, sequences: Sequences) -> float:
    """Mean negative log-likelihood a token, natural logarithm, in eval mode."""
    was_training = model.training
    model.eval()
    total = 0.0
    tokens, targets = torch.from_numpy(sequences.tokens), torch.from_numpy(sequences.targets)
    for x, y in zip(tokens.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
        total += float(_nll(model(x), y, "sum"))
    model.train(was_training)
    return total / sequences.count


def _nll(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction
    )


def _loss(logits: Tensor, targets: Tensor, teacher: Tensor | None, config: TrainConfig) -> Tensor:
    hard = _nll(logits, targets)
    if config.z_loss:
        hard = (
            hard + config.z_loss * torch.logsumexp(logits[targets != IGNORED], -1).square().mean()
        )
    if teacher is None or not config.distillation:
        return hard
    t, known = config.temperature, targets != IGNORED
    soft = F.kl_div(
        torch.log_softmax(logits[known] / t, dim=-1),
        torch.log_softmax(teacher[known] / t, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - config.distillation) * hard + config.distillation * t * t * soft


def train_decoder(
    model: nn.Module,
    task: WordsTask,
    config: TrainConfig,
    *,
    epochs: int,
    learning_rate: float,
    teacher: nn.Module | None = None,
    label: str = "training",
    progress: bool = True,
) -> LanguageHistory:
    """Train in place on the training sequences; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    tokens, targets = torch.from_numpy(task.train.tokens), torch.from_numpy(task.train.targets)
    steps = math.ceil(len(tokens) / config.batch_size)
    optimizer = optimizer_for(model, config, learning_rate)
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
    with Progress(label, total=epochs, stream=None if progress else io.StringIO()) as bar:
        for _ in range(epochs):
            total = 0.0
            for index in torch.randperm(len(tokens), generator=generator).chunk(steps):
                x, y = _trimmed(tokens[index], targets[index])
                with torch.no_grad():
                    wanted = teacher(x) if teacher is not None else None
                loss = _loss(model(x), y, wanted, config)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(index)
            losses.append(total / len(tokens))
            bar.advance(f"loss {losses[-1]:.3f}")
    model.eval()
    return LanguageHistory(
        tuple(losses),
        nll(model, task.train),
        nll(model, task.dev),
        time.monotonic() - start,
    )


def _trimmed(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the columns in which no row foretells anything."""
    length = int((targets != IGNORED).any(0).sum())
    return tokens[:, :length], targets[:, :length]
