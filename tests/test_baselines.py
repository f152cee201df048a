"""What stands beside a model: measured on its samples, and said where it gains nothing."""

import numpy as np
import pytest

from torusformer.models.task import Task
from torusformer.pipelines.baselines import baselines, bigram_nats, compared, linear_accuracy
from torusformer.pipelines.training import Recipe
from torusformer.quantize import QuantConfig, TrainConfig
from torusformer.quantize.baseline import mlp_accuracy


def corners() -> Task:
    """Which of two numbers' signs are equal: no linear model can tell, an MLP can."""
    rng = np.random.default_rng(0)
    x = rng.choice([0.0, 1.0], (600, 1, 2)).astype(np.float32)
    y = (x[:, 0, 0] == x[:, 0, 1]).astype(np.int64)
    return Task("corners", x[:500], y[:500], x[500:], y[500:], ("no", "yes"), "random")


def test_an_mlp_learns_what_a_linear_model_cannot():
    recipe = TrainConfig(float_epochs=40, qat_epochs=40, augment=0.0, float_learning_rate=0.02)
    bits = QuantConfig(input_bit_width=1)
    assert linear_accuracy(corners()) < 0.8
    assert mlp_accuracy(corners(), 16, bits, recipe, progress=False) == 1.0


def test_pairs_are_counted():
    tokens = np.tile(np.array([[0, 1, 0, 1]]), (200, 1))
    targets = np.tile(np.array([[1, 0, 1, -1]]), (200, 1))
    names = ("a", "b")
    task = Task("t", tokens, targets, tokens[:5], targets[:5], names, "x", vocabulary=names,
                measure="nats")  # fmt: skip
    assert bigram_nats(task) < 0.01
    shuffled = np.random.default_rng(0).integers(0, 2, (200, 4))
    noise = Task("t", tokens, shuffled, tokens, shuffled, names, "x", vocabulary=names,
                 measure="nats")  # fmt: skip
    assert bigram_nats(noise) == pytest.approx(np.log(2), abs=0.02)


def test_both_stand_beside_a_classifier():
    recipe = Recipe.from_name("digits", "tiny", epochs=1)
    found = baselines(recipe, 8)
    assert found["linear"] == pytest.approx(0.96, abs=0.02)
    assert found.keys() == {"linear", "mlp"}
    assert found["mlp"] > 0.15  # an epoch is more than guessing


@pytest.mark.parametrize(("ours", "says"), [(0.98, False), (0.97, True), (0.96, True)])
def test_a_transformer_that_gains_nothing_is_named_so(ours, says):
    report = {"baselines": {"linear": 0.96, "mlp": 0.97}, "program_accuracy": ours,
              "plan": {"pbs_total": 1200}}  # fmt: skip
    text = compared(report)
    assert "a linear model 96.0 %, an MLP of 1,200 bootstraps 97.0 %" in text
    assert text.endswith("gains nothing over them") == says
    nats = compared({"baselines": {"linear": 2.4}, "program_nll": 2.0})
    assert nats == "beside it: counts of pairs of tokens 2.400 nats"
