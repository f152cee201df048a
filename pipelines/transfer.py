"""A task of texts and a teacher in; its answers to them, and to many texts made of them, out.

A student is asked the same texts in every epoch, so a large teacher answers each of them once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from torusformer.arrays import read_arrays
from torusformer.models.recombined import recombined
from torusformer.models.task import UNKNOWN, FloatArray, LabelArray, Task
from torusformer.progress import Progress

FILE = "answers.npz"
TOKENS_AT_ONCE = 4096


@torch.no_grad()
def answers_of(teacher: nn.Module, x: LabelArray, padding: int) -> FloatArray:
    """A teacher's logits (N, classes) for padded ids x (N, T), short texts first."""
    teacher.eval()
    lengths = np.maximum(1, (x != padding).sum(1))
    order, total, start = np.argsort(lengths, kind="stable"), int(lengths.sum()), 0
    parts: list[FloatArray] = []
    with Progress("the teacher answers", total=total) as bar:
        while start < len(x):
            # As many as make so many tokens with the padding of the longest of them.
            ahead = lengths[order[min(len(x) - 1, start + TOKENS_AT_ONCE // lengths[order[start]])]]
            rows = order[start : start + max(1, TOKENS_AT_ONCE // int(ahead))]
            longest = int(lengths[rows].max())
            parts.append(teacher(torch.from_numpy(x[rows, :longest])).numpy())
            start += len(rows)
            bar.advance(count=int(lengths[rows].sum()))
    found = np.concatenate(parts)
    answers = np.empty_like(found)
    answers[order] = found
    return answers


def extended(task: Task, teacher: nn.Module, count: int, seed: int) -> Task:
    """The task with the teacher's answers to its training texts and to `count` made of them."""
    assert task.padding is not None, "texts are padded"
    made = recombined(task.x_train, task.padding, count, seed)
    x = np.concatenate([task.x_train, made])
    y = np.concatenate([task.y_train, np.full(count, UNKNOWN)])
    answers = answers_of(teacher, x, task.padding)
    return dataclasses.replace(task, x_train=x, y_train=y, answers=answers)


def save_answers(task: Task, folder: Path) -> None:
    """Write what the training of a task was extended by."""
    assert task.answers is not None
    np.savez(folder / FILE, x=task.x_train, y=task.y_train, answers=task.answers)


def load_answers(task: Task, folder: Path) -> Task:
    """Inverse of `save_answers`, for the task that it was extended from."""
    found = read_arrays(folder / FILE)
    return dataclasses.replace(
        task, x_train=found["x"], y_train=found["y"], answers=found["answers"]
    )
