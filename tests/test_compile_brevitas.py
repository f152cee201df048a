"""One call from a Brevitas module to a circuit on real numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torusformer import InputError, LoweringError
from torusformer.fhe_compile import examine
from torusformer.pipelines.brevitas import compile_brevitas


class Net(nn.Module):
    """As others write one; `quantizes`: whether it begins with a quantizer."""

    def __init__(self, quantizes: bool = True, keeps: bool = False, features: int = 4) -> None:
        super().__init__()
        start = qnn.QuantIdentity(bit_width=2, return_quant_tensor=True)
        self.start = start if quantizes else nn.Identity()
        self.fc1 = qnn.QuantLinear(features, 3, bias=True, weight_bit_width=2)
        self.act = qnn.QuantReLU(bit_width=2, return_quant_tensor=True)
        self.fc2 = qnn.QuantLinear(3, 2, bias=True, weight_bit_width=2, return_quant_tensor=False)
        self.end = qnn.QuantIdentity(bit_width=3, return_quant_tensor=keeps)

    def forward(self, x: Tensor) -> Any:
        return self.end(self.fc2(self.act(self.fc1(self.start(x)))))


class Two(nn.Module):
    """Two inputs that meet in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a = qnn.QuantIdentity(bit_width=2, return_quant_tensor=True)
        self.b = qnn.QuantIdentity(bit_width=2, return_quant_tensor=True)
        self.fa = qnn.QuantLinear(3, 2, bias=False, weight_bit_width=2)
        self.fb = qnn.QuantLinear(2, 2, bias=False, weight_bit_width=2)
        self.end = qnn.QuantIdentity(bit_width=2)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.end(self.fa(self.a(a))), self.fb(self.b(b))


def trained(model: nn.Module, *x: Tensor) -> nn.Module:
    """With the scales of its quantizers found."""
    with torch.no_grad():
        for _ in range(3):
            model(*x)
    return model


def answers(model: nn.Module, *x: Tensor) -> Any:
    training = model.training
    with torch.no_grad():
        found = model.eval()(*x)
    model.train(training)
    return getattr(found, "value", found)


@pytest.fixture(scope="module")
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(60, 4)


@pytest.mark.parametrize("keeps", [False, True])
def test_real_numbers_in_and_out(x: Tensor, keeps: bool) -> None:
    model = trained(Net(keeps=keeps), x)
    circuit = compile_brevitas(model, x)
    assert model.training
    expected = answers(model, x).numpy()
    got = circuit.forward(x)
    assert got.shape == expected.shape == (60, 2)
    assert np.abs(got - expected).max() < 1e-5
    assert np.array_equal(circuit.forward(x[:3].numpy(), fhe="simulate"), got[:3])
    assert np.array_equal(circuit(x[0]), got[:1])


def test_encrypted(x: Tensor) -> None:
    circuit = compile_brevitas(trained(Net(features=2), x[:, :2]), x[:, :2], p_error=2**-20)
    assert circuit.plan.p_error == 2**-20
    circuit.keygen()
    got = circuit.run(x[:2, :2], fhe="execute")
    assert np.array_equal(got, circuit.run(x[:2, :2]))


def test_an_input_without_a_quantizer_gets_one(x: Tensor, tmp_path: Path) -> None:
    model = trained(Net(quantizes=False), x)
    kept = tmp_path / "model.qonnx.onnx"
    circuit = compile_brevitas(model, x, n_bits=3, output_onnx_file=kept)
    scale = x.abs().max() / 3
    rounded = torch.clamp(torch.round(x / scale), -3, 3) * scale
    assert np.abs(circuit.forward(x) - answers(model, rounded).numpy()).max() < 1e-5
    assert (circuit.program.inputs[0].lo, circuit.program.inputs[0].hi) == (-3, 3)
    assert examine(kept).ok
    with pytest.raises(LoweringError, match="say n_bits"):
        compile_brevitas(model, x)


def test_two_inputs_two_outputs(x: Tensor) -> None:
    a, b = x[:, :3], x[:, 1:3]
    model = trained(Two(), a, b)
    circuit = compile_brevitas(model, (a, b))
    found, expected = circuit.forward(a, b), answers(model, a, b)
    for got, wanted in zip(found, expected, strict=True):
        assert np.abs(got - wanted.numpy()).max() < 1e-5
    with pytest.raises(InputError, match="1 inputs are given, the model takes 2"):
        circuit.forward(a)
    with pytest.raises(InputError, match="differ in number"):
        circuit.forward(a, b[:3])


def test_sums_are_rounded_and_the_chance_of_a_run_is_shared(x: Tensor) -> None:
    model = trained(Net(), x)
    circuit = compile_brevitas(
        model,
        x.numpy(),
        rounding_threshold_bits={"n_bits": 2, "method": "exact"},
        global_p_error=0.01,
    )
    assert "narrowed" in circuit.program.metadata
    assert circuit.plan.failure_probability == pytest.approx(0.01, rel=0.2)


def test_answers_on_the_inputset_stay_within_a_budget(x: Tensor) -> None:
    model = trained(Net(), x)
    plain, narrow = compile_brevitas(model, x), compile_brevitas(model, x, within=0.2)
    assert narrow.plan.predicted_seconds < plain.plan.predicted_seconds
    changed = plain.forward(x).argmax(axis=1) != narrow.forward(x).argmax(axis=1)
    assert changed.mean() <= 0.2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"configuration": object()}, "an argument of Concrete ML"),
        ({"show_mlir": True}, "an argument of Concrete ML"),
        ({"device": "cuda"}, "run on the processor"),
        ({"inputs_encryption_status": ["clear"]}, "all inputs are encrypted"),
        ({"p_error": 0.1, "global_p_error": 0.1}, "give one of them"),
        ({"rounding_threshold_bits": {"n_bits": 4, "method": "APPROXIMATE"}}, "exactly here"),
        ({"p_error": 2.0}, "between 0 and 1"),
    ],
)
def test_what_does_not_map_is_refused(x: Tensor, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compile_brevitas(trained(Net(), x), x, **arguments)


def test_a_module_that_does_not_run_is_named(x: Tensor) -> None:
    with pytest.raises(LoweringError, match="cannot be run and exported on the first sample"):
        compile_brevitas(Net(), x[:, :3])
    with pytest.raises(InputError, match="holds no samples"):
        compile_brevitas(Net(), x[:0])
