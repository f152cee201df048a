"""Every kind of attention, norm, activation and position, from the float layer to ciphertexts.

What is tested comes from the registries: a kind that is added later without a quantized form, or
with one that computes something else, fails here.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from tests.twins import (
    FEATURES,
    NARROW,
    SMALL,
    TOKENS,
    Fragment,
    brief,
    float_model,
    logits_of,
    pairwise,
    program_of,
    samples,
    shape_of,
    twin_of,
)
from torusformer.fhe_compile import Program, plan
from torusformer.fhe_compile.circuit.circuit import Module, compile_module
from torusformer.models import ModelConfig
from torusformer.models.activations import ACTIVATIONS
from torusformer.models.attention import CONTEXTS, Attention, product_tables, table_scores
from torusformer.models.config import Pooling, Positions
from torusformer.models.norms import NORMS
from torusformer.quantize import QuantTransformer, predict
from torusformer.quantize.attention import ATTENTION
from torusformer.quantize.norms import QUANT_NORMS
from torusformer.quantize.weights import WEIGHTS

KINDS = tuple(CONTEXTS)


def names(field: str) -> tuple[str, ...]:
    """All that a setting can be."""
    registries = {"attention": CONTEXTS, "norm": NORMS, "activation": ACTIVATIONS}
    return tuple(registries[field]) if field in registries else get_args(Positions)


# Two tokens, one head, so small that nothing is left over: a circuit for each kind, and the
# other registries in turn, so that each name runs encrypted at least once.
TINIEST = {**SMALL, **FEATURES, "tokens": 2, "heads": 1, "mlp_dim": 3}
FIELDS = ("attention", "norm", "activation", "positions")


def encrypted_shapes() -> list[Fragment]:
    """One of each kind; of each other field the next name that it goes with."""
    left = {field: itertools.cycle(names(field)) for field in FIELDS[1:]}
    shapes = []
    for kind in KINDS:
        shape = {**TINIEST, "attention": kind, "pooling": "first"}
        for field, cycle in left.items():
            shape[field] = next(n for n in cycle if shape_of({**shape, field: n}) is not None)
        shapes.append(shape)
    return shapes


ENCRYPTED = encrypted_shapes()
by_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("field", FIELDS)
def test_every_name_of_every_registry_runs_encrypted(field: str) -> None:
    assert {shape[field] for shape in ENCRYPTED} == set(names(field))


def test_every_kind_has_a_quantized_form() -> None:
    assert ATTENTION.keys() == CONTEXTS.keys()
    assert QUANT_NORMS.keys() == NORMS.keys()
    assert CONTEXTS.keys() - WEIGHTS.keys() == {"inhibitor"}  # it weighs nothing


@cache
def quantized(**changes: str) -> tuple[QuantTransformer, Program]:
    twin = twin_of(ModelConfig.from_dict({**FEATURES, **SMALL, "norm": "batch", **changes}))
    return twin, program_of(twin)


SHAPES = pairwise([
    [SMALL],
    [FEATURES, {**FEATURES, "causal": True}, {**TOKENS, "padding": 0}, TOKENS],
    *([{field: name} for name in names(field)] for field in FIELDS),
    [{"pooling": name} for name in get_args(Pooling)],
    [{}, {"kv_heads": 1}, {"post_norm": True}, {"gated": True}],
])  # fmt: skip


@pytest.mark.parametrize("settings", SHAPES, ids=brief)
def test_program_computes_what_the_quantized_model_does(settings: Fragment) -> None:
    config = ModelConfig.from_dict(settings)
    twin = twin_of(config)
    x = samples(config, 40, seed=5)
    np.testing.assert_allclose(logits_of(program_of(twin), x), predict(twin, x), atol=1e-4)


ALIVE = ("attention.context_quant", "activation_quant")
# Tables of four bits: keys are made sooner.
BITS = NARROW.replace(
    accumulator_bit_width=4, stream_accumulator_bit_width=4, statistic_bit_width=4
)


def encrypted_program(shape: Fragment) -> Program:
    """Of the first weights that leave no attention and no hidden unit a constant."""
    config = ModelConfig.from_dict(shape)
    for seed in range(9):
        program = program_of(twin_of(float_model(config, seed), BITS))
        layers = plan(program).pbs_by_layer
        if all(any(part in layer for layer in layers) for part in ALIVE):
            return program
    raise AssertionError(f"{brief(shape)}: everything is a constant")


@pytest.fixture(scope="module")
def module() -> Module:
    """A function a kind, all under the same keys: those take longer than the answers."""
    return compile_module(dict(zip(KINDS, map(encrypted_program, ENCRYPTED), strict=True)))


@by_kind
def test_decrypted_answer_is_that_of_the_program(kind: str, module: Module) -> None:
    circuit = module.function(kind)
    (port,), rng = circuit.program.inputs, np.random.default_rng(0)
    many = [rng.integers(port.lo, port.hi + 1, port.shape) for _ in range(32)]
    answers = [circuit.run(x, fhe="disable")["logits"] for x in many]
    other = next(i for i, answer in enumerate(answers) if not np.array_equal(answer, answers[0]))
    found = circuit.run(many[other], fhe="execute")["logits"]
    assert np.array_equal(found, answers[other])
    assert np.array_equal(circuit.run(many[0], fhe="simulate")["logits"], answers[0])


@by_kind
def test_every_kind_learns_every_weight(kind: str) -> None:
    layer = Attention(
        ModelConfig(tokens=5, features=6, num_classes=2, dim=6, heads=2, attention=kind)
    )  # type: ignore[arg-type]
    layer(torch.randn(4, 5, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert layer.query.weight.grad.abs().sum() > 0, kind


@by_kind
@torch.no_grad()
def test_a_quantized_twin_learns_every_weight(kind: str) -> None:
    twin, _ = quantized(attention=kind, pooling="first")
    twin.train()
    with torch.enable_grad():
        logits = twin(samples(twin.model_config, 64))
        nn.functional.cross_entropy(logits, torch.arange(64) % 3).backward()
    found = {name: p.grad for name, p in twin.named_parameters() if p.requires_grad}
    twin.zero_grad()
    twin.eval()
    assert all(grad is not None and grad.isfinite().all() for grad in found.values())


def test_whole_codes_give_the_entries_of_the_tables() -> None:
    tables = torch.randn(1, 2, 4, 4)
    q, k = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 2.0]])
    score = table_scores(tables, q[None, None], k[None, None])
    assert float(score) == pytest.approx(float(tables[0, 0, 3, 1] + tables[0, 1, 0, 2]), abs=1e-6)


def test_tables_start_as_products() -> None:
    assert product_tables(1, 1)[0, 0, 0].tolist() == [1.125, 0.375, -0.375, -1.125]


def test_table_attention_needs_one_bootstrap_a_pair_and_group() -> None:
    _, program = quantized(attention="table", pooling="mean")
    layers = plan(program).pbs_by_layer
    pairs = [n for name, n in layers.items() if name.endswith("attention.table_quant.quant")]
    assert pairs == [2 * 3 * 3 * 2]  # heads, queries, keys, groups


def test_gradients_of_codes_pass_through_their_rounding() -> None:
    twin, _ = quantized(attention="table", pooling="mean")
    twin.train()
    loss = nn.functional.cross_entropy(twin(torch.rand(8, 3, 4)), torch.arange(8) % 3)
    loss.backward()
    queries = [p for name, p in twin.named_parameters() if name.startswith("blocks.0.query.")]
    assert sum(float(p.grad.abs().sum()) for p in queries if p.grad is not None) > 0
    assert twin.get_submodule("blocks.0.attention").tables.grad.abs().sum() > 0
    twin.zero_grad()
    twin.eval()


@by_kind
@torch.no_grad()
def test_padding_adds_nothing(kind: str) -> None:
    """Whatever its row of the embedding holds, in the float model and in codes."""
    config = ModelConfig.from_dict(
        {**TOKENS, **SMALL, "padding": 0, "attention": kind, "norm": "layer", "layers": 2}
    )
    twin = twin_of(config)
    x = samples(config, 64)
    padded = (x == 0).any(1)
    assert 10 < int(padded.sum()) < 54
    before = twin(x)
    embedding = twin.get_submodule("embed").weight
    kept = embedding[0].clone()
    embedding[0] += 3 * torch.randn(config.dim)
    assert torch.equal(twin(x), before)
    embedding[0] = kept
    embedding[1] += 3 * torch.randn(config.dim)
    assert not torch.equal(twin(x), before)
