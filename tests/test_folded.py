"""Folded models, quantized: skips cost nothing, and what a fold takes away is not computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.twins import (
    FEATURES,
    NARROW,
    SMALL,
    float_model,
    logits_of,
    program_of,
    samples,
    twin_of,
)
from torusformer.fhe_compile import compile_program, interpret, plan
from torusformer.models import ModelConfig
from torusformer.pipelines.values import to_integers
from torusformer.quantize import QuantConfig, predict, to_qat
from torusformer.quantize.graph import Features
from torusformer.quantize.layers import RoundedLinear
from torusformer.quantize.norms import QuantLayerNorm

ASKED = ModelConfig.from_dict({**FEATURES, **SMALL, "norm": "batch", "pooling": "query"})


def test_a_skip_costs_no_bootstrap_and_decrypts_exactly() -> None:
    bits = QuantConfig.from_name("digits-fast")
    asked = ASKED.replace(attention="tanh", activation="hardtanh")
    twins = [twin_of(asked.replace(skip=skip), bits) for skip in (False, True)]
    programs = [program_of(twin) for twin in twins]
    x = samples(ASKED, 16).numpy()
    found = logits_of(programs[1], x)
    np.testing.assert_allclose(found, predict(twins[1], x), atol=1e-5)
    assert plan(programs[1]).max_bit_width <= 5
    tables = [sum(node.op == "Table" for node in program.nodes) for program in programs]
    assert tables[0] == tables[1]
    circuit = compile_program(programs[1])
    circuit.keygen()
    (port,), (logits,) = programs[1].inputs, programs[1].outputs
    q_x = {port.name: to_integers(port, x)[0]}
    answer = circuit.run(q_x, fhe="execute")[logits.name]
    assert np.array_equal(answer, interpret(programs[1], q_x)[logits.name])


@pytest.mark.parametrize("bits", [QuantConfig(), QuantConfig.from_name("digits-softmax")])
def test_a_skip_around_any_blocks(bits: QuantConfig) -> None:
    config = ASKED.replace(skip=True, pooling="mean", norm="layer", layers=2)
    model = float_model(config)
    twin = twin_of(model, bits)
    x = samples(config, 16)
    with torch.no_grad():  # the linear part of the logits is that of the float model
        embedded = model.embed(x) + model.positions
        head = twin.get_submodule("head")
        linear = head.linear.weight[:, config.dim :].unflatten(1, (-1, bits.input_codes))
        skipped = x.flatten(1) @ linear.mean(2).T + head.bias - model.head.bias
        torch.testing.assert_close(skipped, model.skip(embedded.flatten(1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits_of(program_of(twin), x), predict(twin, x), atol=1e-4)


def test_a_mean_that_is_folded_away_costs_no_bootstrap() -> None:
    model = float_model(ASKED.replace(norm="layer", pooling="mean", layers=2))
    with_mean, without = (twin_of(model, NARROW.replace(unfolded=u)) for u in (("mean",), ()))
    for twin, centred in ((with_mean, True), (without, False)):
        norms = [m for m in twin.modules() if isinstance(m, QuantLayerNorm)]
        assert [norm.centred for norm in norms] == [centred] * 5
    costs = [plan(program_of(twin)).pbs_total for twin in (with_mean, without)]
    assert costs[0] > costs[1]


def test_an_affine_fold_keeps_tables_of_codes_alone() -> None:
    """Embedding, scores, weights, values, what heads find, and hidden units."""
    model = float_model(ASKED)
    folded, unfolded = (twin_of(model, NARROW.replace(unfolded=u)) for u in ((), ("affine",)))
    maps = [name for name, m in folded.named_modules() if isinstance(m, RoundedLinear)]
    assert maps == ["embed", "blocks.0.score", "blocks.0.value", "blocks.0.up"]
    assert Features in {call.op for call in folded.calls}
    plans = [plan(program_of(twin)) for twin in (folded, unfolded)]
    assert plans[0].pbs_total < plans[1].pbs_total
    blocks = [{name.rsplit(".", 2)[0] for name in p.pbs_by_layer} for p in plans]
    left_out = {"stream_quant", "blocks.0.attention_quant", "blocks.0.mlp_quant"}
    assert not {name for name in plans[0].pbs_by_layer if any(part in name for part in left_out)}
    assert blocks[0] != blocks[1]


@torch.no_grad()
def test_a_twin_of_untrained_weights_has_the_names_of_a_trained_ones() -> None:
    """A checkpoint's weights find their places whatever the source's gains are."""
    twin = twin_of(ASKED)
    torch.manual_seed(7)
    other = to_qat(float_model(ASKED, seed=1), NARROW).eval()
    other.load_state_dict(twin.state_dict())
    x = samples(ASKED, 8)
    assert torch.equal(other(x), twin(x))
