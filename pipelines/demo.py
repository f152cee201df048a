"""A recipe in; every artefact, answers on ciphertexts and `report.json` out, stage by stage.

What a model answers says how: `demo_classes` names classes, `demo_text` writes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torusformer.fhe_compile.circuit.calibrate import probe
from torusformer.fhe_compile.prices.cost import PriceList
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.pipelines.baselines import baselines, rows_of
from torusformer.pipelines.console import noted_prices
from torusformer.pipelines.stages import Stages, write_report
from torusformer.pipelines.training import Recipe, Trained, train_into

PROGRAM, DEPLOYMENT = "program.onnx", "deployment"
IN_ROWS = ("images", "sentiment")  # tasks whose report lists baselines as rows, not by name


class Demo(ABC):
    """The stages of one kind of model behind its training; each leaves what the next one needs."""

    checking = ("check", "what the integer program does with held-out samples")
    planning = ("plan", "count bootstraps")
    compiling = ("compile", "to a TFHE circuit")
    answering = ("execute", "held-out samples, encrypted")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @abstractmethod
    def check(self, folder: Path, trained: Trained) -> dict[str, Any]:
        """Write the integer program and measure it; what the report says of it."""

    @abstractmethod
    def plan(self, prices: PriceList) -> dict[str, Any]:
        """The cost, as in `report.json`; for people on stderr."""

    @abstractmethod
    def compile(self, folder: Path) -> None:
        """Write the deployment of what was planned."""

    @abstractmethod
    def make_keys(self, folder: Path) -> None:
        """Both parties of that deployment, the client with fresh keys."""

    @abstractmethod
    def answer(self) -> dict[str, Any]:
        """Encrypted answers beside the integer program's, as in `report.json`."""

    @abstractmethod
    def text(self, report: dict[str, Any]) -> str:
        """The report for people."""


def run_demo(folder: Path, demo: Demo, p_error: float = EXACT) -> dict[str, Any]:
    """The whole way into `folder`; what report.json says."""
    recipe, stage = demo.recipe, Stages()
    task = recipe.task
    with stage("train", f"{recipe.preset} on {task.source}, {len(task.x_train)} samples"):
        trained = train_into(folder, recipe)
    with stage(*demo.checking):
        checked = demo.check(folder, trained)
    with stage("probe", "a few bootstraps: how fast this machine is now"):
        prices = noted_prices("demo", p_error)
        prices = prices.scaled(probe())
    with stage(*demo.planning):
        cost = demo.plan(prices)
    with stage("baselines", "what a linear model and an MLP make of the same samples"):
        bootstraps = cost.get("pbs_total", 0)
        beside: Any = baselines(recipe, bootstraps)
        if task.name in IN_ROWS:
            beside = rows_of(beside, bootstraps)
    with stage(*demo.compiling):
        demo.compile(folder)
    with stage("keys", "the client makes them, the server gets those for evaluation"):
        demo.make_keys(folder)
    with stage(*demo.answering):
        answers = demo.answer()
    report = {
        "task": task.name,
        "source": Path(task.source).name,
        "preset": recipe.preset,
        "seed": recipe.training.seed,
        **trained.to_json(),
        **checked,
        "p_error": p_error,
        "baselines": beside,
        "plan": cost,
        **answers,
    }
    return write_report(folder, report, stage)
