"""What a model has to beat: a linear one, and an MLP with as many bootstraps, on the same samples.

| samples | linear | MLP |
|---|---|---|
| numbers | logistic regression on all of them | a hidden unit for each bootstrap |
| token ids, classes | logistic regression on counts of tokens, padding apart | none |
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

ON_COUNTS = "linear model on token counts"


def baselines(recipe: Recipe, bootstraps: int) -> dict[str, float]:
    """The task's measure of each: `linear`, and `mlp` where inputs are numbers; of texts
    `ON_COUNTS`.
    """
    task = recipe.task
    if task.measure == "nats":
        return {"linear": round(bigram_nats(task), 4)}
    linear = round(linear_accuracy(task), 4)
    found = {"linear" if task.tokenizer is None else ON_COUNTS: linear}
    if task.vocabulary is None:
        mlp = mlp_accuracy(task, bootstraps, recipe.quant, recipe.training)
        found["mlp"] = round(mlp, 4)
    return found


def rows_of(found: Mapping[str, float], bootstraps: int) -> list[dict[str, Any]]:
    """The same as rows of a table: `name`, `accuracy`, `pbs_total`."""
    return [
        {"name": name, "accuracy": value, "pbs_total": bootstraps if name == "mlp" else 0}
        for name, value in found.items()
    ]


def linear_accuracy(task: Task) -> float:
    """Share of held-out samples that logistic regression gets right."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=5000)
    x_train, x_test = _rows(task)
    model.fit(x_train, task.y_train)
    return float((model.predict(x_test) == task.y_test).mean())


def _rows(task: Task) -> tuple[Any, Any]:
    """All numbers of the samples, from -1 to 1, or how often each has which token, sparse."""
    if task.vocabulary is None:
        x_train, x_test = (x.reshape(len(x), -1) for x in (task.x_train, task.x_test))
        return x_train / task.input_scale, x_test / task.input_scale
    from sklearn.feature_extraction.text import CountVectorizer

    def pieces(row: NDArray[np.int64]) -> list[str]:
        return [str(token) for token in row.tolist() if token != task.padding]

    counter = CountVectorizer(analyzer=pieces)
    return counter.fit_transform(task.x_train), counter.transform(task.x_test)


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
    if isinstance(found, list):
        found = {row["name"]: row["accuracy"] for row in found}
    if nats:
        names, shown = {"linear": "counts of pairs of tokens"}, "{:.3f} nats"
        gains = report["program_nll"] < min(found.values())
    else:
        pbs = report["plan"]["pbs_total"]
        names = {
            "linear": "a linear model",
            "mlp": f"an MLP of {pbs:,} bootstraps",
            ON_COUNTS: f"a {ON_COUNTS}",
        }
        shown = "{:.1%}"
        gains = report["program_accuracy"] > max(found.values())
    values = (f"{names[name]} {shown.format(v).replace('%', ' %')}" for name, v in found.items())
    text = f"beside it: {', '.join(values)}"
    return text if gains else f"{text}: the transformer gains nothing over them"
