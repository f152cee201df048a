"""Token ids to classes: trained, exported, lowered, planned and decrypted, both ways in.

A text of two or three tokens is padded to three. Its class tells whether its last token is above
its first: a bag of its tokens does not know.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.twins import SMALL, logits_of, program_of
from torusformer.fhe_compile import Program, plan
from torusformer.fhe_compile.circuit.circuit import Module, compile_module
from torusformer.fhe_compile.program.ports import quantize_array
from torusformer.models import ModelConfig, Task, Transformer
from torusformer.quantize import (
    QuantConfig,
    QuantTransformer,
    TrainConfig,
    calibrate,
    evaluate,
    predict,
    to_qat,
    train,
)

PADDING, WAYS = 0, ("one-hot", "lookup")
LABELS, VOCABULARY = ("falls", "rises"), ("-", "a", "b", "c", "d", "e")
BITS = QuantConfig(
    accumulator_bit_width=4, stream_accumulator_bit_width=4, statistic_bit_width=4,
    sum_bit_width=5, act_bit_width=2, score_bit_width=2, value_bit_width=2, softmax_bit_width=3,
    exp_bit_width=3,
    attention_bit_width=2, head_sum_bit_width=8, head_weight_bit_width=3,
)  # fmt: skip
MODEL = ModelConfig.from_dict(
    {**SMALL, "tokens": 3, "vocabulary": 6, "num_classes": 2, "dim": 8, "mlp_dim": 8,
     "norm": "none", "pooling": "first", "padding": PADDING}
)  # fmt: skip
RECIPE = TrainConfig(
    float_epochs=60, qat_epochs=40, batch_size=32, float_learning_rate=0.02,
    qat_learning_rate=0.01, temperature=1.0, augment=0.0,
)  # fmt: skip


@cache
def rising() -> Task:
    """Every text of two and of three tokens but where first and last are the same."""
    tokens = range(1, len(VOCABULARY))
    texts = [*itertools.product(tokens, tokens), *itertools.product(tokens, repeat=3)]
    kept = [text for text in texts if text[0] != text[-1]]
    x = np.array([[*text, PADDING][:3] for text in kept])
    y = np.array([int(text[-1] > text[0]) for text in kept])
    order = np.random.default_rng(0).permutation(len(x))
    x, y, n = x[order], y[order], len(x) * 3 // 4
    return Task("rising", x[:n], y[:n], x[n:], y[n:], LABELS, "here", vocabulary=VOCABULARY)


@cache
def trained() -> tuple[Transformer, QuantTransformer]:
    task = rising()
    torch.manual_seed(0)
    model = Transformer(task.fitted(MODEL))
    train(model, task, RECIPE, progress=False)
    twin = to_qat(model, BITS)
    calibrate(twin, task.x_train)
    train(twin, task, RECIPE, teacher=model, progress=False)
    return model, twin


@cache
def sent(way: str) -> tuple[QuantTransformer, Program]:
    """The twin, whose tokens are sent in a certain way."""
    twin = QuantTransformer(trained()[1].model_config, BITS.replace(token_input=way)).eval()
    twin.load_state_dict(trained()[1].state_dict())
    return twin, program_of(twin)


def bags(x: np.ndarray) -> np.ndarray:
    return np.eye(len(VOCABULARY))[x].sum(1)


def test_it_learns_what_a_bag_of_tokens_cannot_tell() -> None:
    task, (model, twin) = rising(), trained()
    majority = float(np.bincount(task.y_test).max() / len(task.y_test))
    counted = LogisticRegression().fit(bags(task.x_train), task.y_train)
    baseline = float(counted.score(bags(task.x_test), task.y_test))
    found = {"float": evaluate(model, task), "quantized": evaluate(twin, task)}
    print(f"majority {majority:.2f}, bag of tokens {baseline:.2f}, {found}")
    assert all(accuracy > max(majority, baseline) + 0.15 for accuracy in found.values())


@pytest.mark.parametrize("way", WAYS)
def test_program_computes_what_the_quantized_model_does(way: str) -> None:
    twin, program = sent(way)
    (port,) = program.inputs
    assert (port.one_hot, port.table is not None) == (way == "one-hot", way == "lookup")
    assert port.vocabulary == len(VOCABULARY)
    x = np.array(list(itertools.product(range(6), repeat=3)))  # padding anywhere, too
    np.testing.assert_allclose(logits_of(program, x), predict(twin, x), atol=1e-4)


def test_how_tokens_are_sent_changes_no_logit() -> None:
    x = rising().x_test
    programs = [sent(way)[1] for way in WAYS]
    assert np.array_equal(*(logits_of(program, x) for program in programs))
    one_hot, lookup = (plan(program) for program in programs)
    assert lookup.pbs_total <= one_hot.pbs_total
    assert max(one_hot.max_bit_width, lookup.max_bit_width) <= 6


@pytest.fixture(scope="module")
def module() -> Module:
    """Both ways under the same keys."""
    return compile_module({way: sent(way)[1] for way in WAYS})


@pytest.mark.parametrize("way", WAYS)
def test_decrypted_answer_is_that_of_the_program(way: str, module: Module) -> None:
    circuit = module.function(way)
    (port,), (logits,) = circuit.program.inputs, circuit.program.outputs
    for text in ([1, 4, 2], [5, 2, PADDING]):
        q_x = quantize_array(port, np.array([text]))
        expected = circuit.run(q_x, fhe="disable")[logits.name]
        assert np.array_equal(circuit.run(q_x, fhe="execute")[logits.name], expected)


@torch.no_grad()
def test_padding_adds_nothing() -> None:
    """A text is what it is without; and what stands for padding may be any token's numbers."""
    model, twin = trained()
    x = torch.from_numpy(rising().x_test)
    short = x[x[:, 2] == PADDING]
    assert len(short)
    torch.testing.assert_close(model(short[:, :2]), model(short))
    before = twin(x)
    weight = twin.get_submodule("embed").weight
    kept = weight[PADDING].clone()
    weight[PADDING] = 10 * torch.randn(MODEL.dim)
    assert torch.equal(twin(x), before)
    np.testing.assert_allclose(logits_of(program_of(twin), x), before.numpy(), atol=1e-4)
    weight[PADDING] = kept
