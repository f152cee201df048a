"""Sums that wrap, from training to ciphertexts: folding, its penalty, codes, what is refused."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import classifier
from tests.twins import (
    FEATURES,
    SMALL,
    Fragment,
    float_model,
    logits_of,
    program_of,
    samples,
    twin_of,
)
from torusformer import InputError
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.models import ModelConfig
from torusformer.models.task import Task
from torusformer.pipelines.values import to_integers
from torusformer.quantize import History, QuantConfig, TrainConfig, predict, train
from torusformer.quantize.config import Wrapping
from torusformer.quantize.quantizers import ActQuant, Grid, SignQuant
from torusformer.quantize.rings import Folding, folded_shares, penalty, watched

RINGS = {"query": 3, "key": 3, "value": 3, "score": 3, "context": 3, "up": 4}
WRAPPING = QuantConfig(
    act_bit_width=2, act_narrow=True, score_bit_width=1, value_bit_width=1, attention_bit_width=1,
    input_bit_width=1, head_weight_bit_width=2, head_sum_bit_width=6, embed_table=False,
    rings=RINGS,
)  # fmt: skip
MODEL: Fragment = {
    **FEATURES, **SMALL, "attention": "tanh", "activation": "hardtanh", "norm": "batch",
    "distance_bias": True, "pooling": "row",
}  # fmt: skip


def grid(units: torch.Tensor, scale: float = 0.37) -> Grid:
    far = torch.tensor(1000.0)
    return Grid(units * scale, torch.tensor(scale), -far, far)


@given(bits=st.integers(2, 5), bias=st.floats(-50, 50), scale=st.floats(0.01, 100))
def test_every_odd_code_of_a_folded_sum_is_antiperiodic(bits, bias, scale):
    units = torch.arange(-200.0, 200.0)
    folded = Folding(bits).eval()(grid(units, scale), torch.tensor(bias * scale)).value
    assert (folded != 0).all()
    sign, code = SignQuant(), ActQuant(2, narrow=True)
    for quant in (sign, code):
        quant.set_scale(scale * 1.7)
        found = quant(folded).value
        assert torch.equal(found[2**bits :], -found[: -(2**bits)])
    assert set(torch.sign(sign(folded).value).tolist()) <= {-1.0, 1.0}


def test_a_sum_near_zero_is_seen_as_it_is():
    units = torch.arange(-4.0, 5.0)
    seen = Folding(3).eval()(grid(units, 1.0)).value
    assert (seen - units).abs().max() < 0.1
    far = Folding(3).eval()(grid(torch.tensor([5.0, 8.0, 11.0]), 1.0)).value
    assert (far - torch.tensor([3.0, 0.0, -3.0])).abs().max() < 0.1


def test_sums_near_their_fold_are_pulled_back():
    model = torch.nn.Sequential(Folding(3))
    units = torch.tensor([0.0, 5.0, 7.0, 12.0], requires_grad=True)
    with watched(model) as seen:
        model(grid(units, 1.0))
    found = penalty(seen)
    assert float(found) == pytest.approx((1 + 6) / 4, abs=0.1)  # beyond 6 units
    found.backward()
    assert units.grad is not None
    assert units.grad[:2].tolist() == [0, 0]
    assert (units.grad[2:] > 0).all()
    assert folded_shares(model, seen) == {"": 0.25}
    assert float(penalty([])) == 0


SHAPES: list[Fragment] = [
    {},
    {"pooling": "query", "skip": True, "distance_bias": False},
    {"pooling": "first", "features": 12},
    {"gated": True, "pooling": "mean"},
]
BITS = {
    "query": {**RINGS},
    "asked": {"score": 3, "value": 3, "context": 3, "up": 4},
    "out": {"out": 3, "down": 3, "up": 4},
    "gate": {"gate": 3, "up": 3},
}


@pytest.mark.parametrize(
    ("changes", "rings"), [*zip(SHAPES, BITS.values(), strict=True)], ids=[*BITS]
)
def test_what_was_trained_is_what_is_lowered_and_it_wraps(changes, rings):
    config = ModelConfig.from_dict({**MODEL, **changes})
    unfolded, model = ("affine",) if "out" in rings else (), float_model(config)
    with torch.no_grad():
        for block in model.blocks:  # branches as large as the stream that they are added to
            block.attention.out.weight *= 0.05
            block.down.weight *= 0.05
    twin = twin_of(model, WRAPPING.replace(rings=rings, unfolded=unfolded))
    program, x = program_of(twin), samples(config, 40).numpy()
    np.testing.assert_allclose(logits_of(program, x), predict(twin, x), atol=1e-4)
    assert plan(program).wrapping_by_layer


@pytest.fixture(scope="module")
def twin():
    wide = ModelConfig.from_dict({**MODEL, "features": 12})
    return twin_of(wide, WRAPPING)


def test_a_whole_model_of_wrapping_sums_decrypts_exactly(twin):
    program = program_of(twin)
    circuit = compile_program(program)
    assert sum(circuit.plan.wrapping_by_layer.values()) > circuit.plan.pbs_total // 2
    circuit.keygen()
    x = samples(twin.model_config, 2, seed=5).numpy()
    (port,), (logits,) = program.inputs, program.outputs
    for q_x in to_integers(port, x):
        expected = interpret(program, {port.name: q_x})
        for fhe in ("simulate", "execute"):
            found = circuit.run({port.name: q_x}, fhe=fhe)
            assert np.array_equal(found[logits.name], expected[logits.name])


def test_the_plan_says_what_wraps(twin):
    planned = plan(program_of(twin))
    assert " wrap " in planned.table().splitlines()[0]
    assert planned.to_json()["wrapping_by_layer"] == planned.wrapping_by_layer
    proved = plan(classifier())
    assert not proved.wrapping_by_layer
    assert " wrap " not in proved.table().splitlines()[0]


@pytest.mark.parametrize(
    ("model", "bits", "message"),
    [
        ({}, {"act_narrow": False}, "'context', whose codes need an odd number of levels; set act"),
        ({}, {"value_bit_width": 2, "value_narrow": False}, "set value_narrow"),
        ({"activation": "relu"}, {}, "rings name 'up', and activation relu is no odd function"),
        ({"attention": "sigmoid"}, {}, "weights of attention sigmoid are no odd function"),
        ({}, {"rings": {"out": 3}}, "rings name 'out', which is no layer of this model once"),
        ({}, {"rings": {"embed": 1}}, "give at least 2"),
    ],
)
def test_refuses_what_cannot_wrap(model, bits, message):
    with pytest.raises(InputError, match=message):
        twin_of(ModelConfig.from_dict({**MODEL, **model}), WRAPPING.replace(**bits))


def test_a_sign_learns_its_scale_and_keeps_what_is_masked():
    quant = SignQuant()
    x = torch.tensor([-3.0, -0.2, 0.0, 0.4, 2.0], requires_grad=True)
    found = quant(x).value
    assert torch.sign(found).tolist() == [-1, -1, 0, 1, 1]
    found.sum().backward()
    assert quant.log_scale.grad is not None
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_combinations_named_here_are_all_rings():
    """A ring that no test trains is a ring that nobody has seen work."""
    trained = {*itertools.chain(*BITS.values()), "embed", "window"}  # test_zero_padding trains that
    assert trained == set(get_args(Wrapping))


def test_a_training_whose_sums_fold_warns_with_the_layer_and_a_cure():
    x = samples(ModelConfig.from_dict(MODEL), 60).numpy()
    y = np.arange(60) % 3
    task = Task("t", x, y, x, y, ("a", "b", "c"), "random", patch=(2, 2))
    twin = twin_of(ModelConfig.from_dict(MODEL), WRAPPING.replace(rings={**RINGS, "up": 2}))
    recipe = TrainConfig(qat_epochs=1, augment=0.0)
    history = train(twin, task, recipe, progress=False)
    assert set(history.folded) == {
        "blocks.0.query", "blocks.0.key", "blocks.0.value", "blocks.0.attention", "blocks.0.up"
    }  # fmt: skip
    mended = History((), 0.0, 0.0, 0.0, {"up": 0.3, "down": 0.1})
    assert len(mended.warnings) == 1
    assert mended.warnings[0].startswith("up: 30% of its sums lie beyond half their ring")
    assert "more bits in rings" in mended.warnings[0]
