"""What a model has to beat: a linear one, and an MLP with as many bootstraps, on the same samples.

| samples | linear | MLP |
|---|---|---|
| numbers | logistic regression on all of them | a hidden unit for each bootstrap |
| token ids, classes | logistic regression on counts of tokens | none |
| text | how often a token follows another, counted | none |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusformer.models.task import UNKNOWN, Task
from torusformer.pipelines.training import Recipe
from torusformer.quantize.baseline import mlp_accuracy


def baselines(recipe: Recipe, bootstraps: int) -> dict[str, float]:
    """The task's measure of each: `linear`, and `mlp` where inputs are numbers."""
    task = recipe.task
    if task.measure == "nats":
        return {"linear": round(bigram_nats(task), 4)}
    found = {"linear": round(linear_accuracy(task), 4)}
    if task.vocabulary is None:
        mlp = mlp_accuracy(task, bootstraps, recipe.quant, recipe.training)
        found["mlp"] = round(mlp, 4)
    return found


def linear_accuracy(task: Task) -> float:
    """Share of held-out samples that logistic regression gets right."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=5000)
    model.fit(_rows(task, task.x_train), task.y_train)
    return float((model.predict(_rows(task, task.x_test)) == task.y_test).mean())


def _rows(task: Task, x: NDArray[Any]) -> NDArray[np.float64]:
    """All numbers of a sample, from -1 to 1, or how often it has each token."""
    if task.vocabulary is None:
        return x.reshape(len(x), -1) / task.input_scale
    size = len(task.vocabulary)
    return np.stack([np.bincount(row, minlength=size) for row in x]).astype(np.float64)


def bigram_nats(task: Task) -> float:
    """Nats a held-out token, of counts of pairs in the training half, each one more."""
    assert task.vocabulary is not None, "texts are of tokens"
    counts = np.ones((len(task.vocabulary),) * 2)
    known = task.y_train != UNKNOWN
    np.add.at(counts, (task.x_train[known], task.y_train[known]), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    asked = task.y_test != UNKNOWN
    return float(-np.log(shares[task.x_test[asked], task.y_test[asked]]).mean())


def compared(report: Mapping[str, Any]) -> str:
    """The baselines of a demo's report for people, and whether the program gains on them."""
    found, nats = report["baselines"], "program_nll" in report
    if nats:
        names, shown = {"linear": "counts of pairs of tokens"}, "{:.3f} nats"
        gains = report["program_nll"] < min(found.values())
    else:
        pbs = report["plan"]["pbs_total"]
        names = {"linear": "a linear model", "mlp": f"an MLP of {pbs:,} bootstraps"}
        shown = "{:.1%}"
        gains = report["program_accuracy"] > max(found.values())
    values = (f"{names[name]} {shown.format(v).replace('%', ' %')}" for name, v in found.items())
    text = f"beside it: {', '.join(values)}"
    return text if gains else f"{text}: the transformer gains nothing over them"
