"""Classifiers of tokens: padding that changes nothing, units that read neighbours, all lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.fhe_compile import compile_program, interpret, lower, plan
from torusformer.fhe_compile.circuit.functions import plan_module
from torusformer.fhe_compile.program.nodes import Program
from torusformer.models import ModelConfig, Transformer
from torusformer.pipelines.training import quiet_brevitas
from torusformer.pipelines.values import to_integers
from torusformer.quantize import QuantConfig, QuantTransformer, calibrate, export_qonnx, to_qat
from torusformer.quantize.fold import folded
from torusformer.quantize.graph import graph_of
from torusformer.quantize.interpreter import interpret as interpret_graph

TOKENS, VOCABULARY = 5, 9
PLAIN = ModelConfig(
    tokens=TOKENS,
    vocabulary=VOCABULARY,
    num_classes=2,
    dim=4,
    layers=1,
    heads=2,
    head_dim=2,
    value_dim=2,
    mlp_dim=5,
    attention="tanh",
    activation="hardtanh",
    norm="batch",
    positions="none",
    pooling="query",
    padding=0,
)
WINDOW = PLAIN.replace(window=3, window_dim=3)
MODELS = {
    "plain": PLAIN,
    "plain-skip": PLAIN.replace(skip=True),
    "window": WINDOW,
    "wide": WINDOW,
    "linear": WINDOW.replace(mlp_dim=0),
    "skip": WINDOW.replace(mlp_dim=0, skip=True),
    "bag": WINDOW.replace(layers=0, pooling="sum"),
}
RINGS = {
    "plain": ("context", "up"),
    "plain-skip": ("context", "up"),
    "window": ("window", "value", "score", "context", "up"),
    "wide": ("window", "value", "score", "up"),  # what is found is read as it is
    "linear": ("window", "value", "score"),
    "skip": ("window", "value", "score"),
    "bag": ("window",),
}


def texts(count: int, seed: int = 0, tokens: int = TOKENS) -> NDArray[np.int64]:
    """Ids (count, tokens) of one to all tokens, padding behind."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, VOCABULARY, (count, tokens))
    lengths = rng.integers(1, tokens + 1, count)
    return x * (np.arange(tokens) < lengths[:, None])


def twin_of(kind: str, how: str, **changes: object) -> QuantTransformer:
    """A quantized model of that kind, its shifts and biases not zero."""
    torch.manual_seed(3)
    model = Transformer(MODELS[kind].replace(**changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    config = QuantConfig(
        act_bit_width=2,
        act_narrow=True,
        value_bit_width=2,
        attention_bit_width=1,
        context_table=kind not in ("wide", "linear", "skip"),
        token_input=how,
        rings=dict.fromkeys(RINGS[kind], 3),
    )
    with quiet_brevitas():
        twin = to_qat(model, config)
        calibrate(twin, texts(64))
    return twin.eval()


def program_of(twin: QuantTransformer, folder: Path) -> Program:
    """Lowered."""
    with quiet_brevitas():
        export_qonnx(twin, texts(1, tokens=twin.model_config.tokens), folder / "model.onnx")
    return lower(folder / "model.onnx")


def answers(program: Program, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Logits as integers (N, classes)."""
    (port,), (out,) = program.inputs, program.outputs
    rows = [interpret(program, {port.name: q_x})[out.name] for q_x in to_integers(port, x)]
    return np.stack(rows).reshape(len(x), -1)


@pytest.mark.parametrize("kind", MODELS)
def test_padding_changes_no_answer(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Transformer(MODELS[kind]).eval(), torch.from_numpy(texts(40))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    short = (x[:, 3:] == 0).all(1)
    assert 5 < int(short.sum()) < 35
    with torch.no_grad():
        whole = model(x)
        torch.testing.assert_close(model(x[short][:, :3]), whole[short])
        graph = graph_of(model)
        for form in (graph, folded(graph)):
            torch.testing.assert_close(interpret_graph(form, x), whole, atol=1e-5, rtol=1e-5)


def test_padding_stays_zero_in_training() -> None:
    model = Transformer(MODELS["window"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = model.embed.near.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.from_numpy(texts(32))).square().sum().backward()
        optimizer.step()
    assert not model.embed.near[:, 0].any()
    assert not torch.equal(model.embed.near, before)


@pytest.mark.parametrize("how", ["lookup", "one-hot"])
@pytest.mark.parametrize("kind", MODELS)
def test_programs_of_all_lengths_are_the_quantized_model(
    kind: str, how: str, tmp_path: Path
) -> None:
    twin, x = twin_of(kind, how), texts(40, seed=1)
    program = program_of(twin, tmp_path)
    found = answers(program, x)
    (out,) = program.outputs
    with torch.no_grad():
        real = twin(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(out.scale * (found - out.zero_point), real, atol=1e-5)
    short = (x[:, 3:] == 0).all(1)
    shorter = answers(program_of(twin.of_length(3), tmp_path), x[short][:, :3])
    np.testing.assert_array_equal(shorter, found[short])
    assert len(np.unique(found[:, 0])) > 2


def test_what_a_token_alone_says_costs_no_bootstrap(tmp_path: Path) -> None:
    counts = [
        plan(program_of(twin_of("plain", "lookup").of_length(n), tmp_path)).pbs_total
        for n in (2, TOKENS)
    ]
    assert counts == [PLAIN.heads * PLAIN.head_value_dim + PLAIN.mlp_dim] * 2


def test_neighbours_decrypt_exactly(tmp_path: Path) -> None:
    twin = twin_of("window", "lookup").of_length(2)
    program, x = program_of(twin, tmp_path), texts(8)[:, :2]
    (port,) = program.inputs
    circuit = compile_program(program)
    for q_x in to_integers(port, x[:2]):
        wanted = interpret(program, {port.name: q_x})
        for mode in ("simulate", "execute"):
            found = circuit.run({port.name: q_x}, mode)
            assert all(np.array_equal(found[out.name], wanted[out.name]) for out in program.outputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 3}, "window is 3 and only"),
        ({"window_dim": 3}, "window_dim is 3 and only"),
        ({"attention": "softmax"}, "pooling is 'query' and padding weighs nothing"),
        ({"layers": 2}, "pooling is 'query' and padding weighs nothing"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PLAIN.replace(**changes)


def test_a_ring_of_neighbours_needs_an_odd_activation() -> None:
    model = MODELS["window"].replace(activation="gelu")
    config = QuantConfig(act_narrow=True, rings={"window": 3})
    with pytest.raises(InputError, match="rings name 'window', and activation gelu"):
        QuantTransformer(model, config)


def test_lengths_of_a_module_cost_what_they_cost_alone(tmp_path: Path) -> None:
    twin = twin_of("bag", "lookup", tokens=40, window_dim=24)
    programs = {f"of{n}": program_of(twin.of_length(n), tmp_path) for n in (8, 40)}
    together = plan_module(programs).functions
    for name, program in programs.items():
        alone = plan(program).predicted_seconds
        assert alone <= together[name].predicted_seconds < 1.1 * alone
