"""Inputs sent as bits of a unary code: the same model, sums of single bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.twins import SMALL, logits_of, program_of, twin_of
from torusformer import InputError
from torusformer.fhe_compile import compile_program, interpret, save_deployment
from torusformer.fhe_compile.program.nodes import Port, Program
from torusformer.models import ModelConfig
from torusformer.pipelines.values import to_integers
from torusformer.quantize import QuantConfig, QuantTransformer, predict
from torusformer.serving import Client, Server


def trained(pooling: str) -> tuple[QuantTransformer, Program]:
    """Not trained, in fact; calibrated."""
    shape = {**SMALL, "tokens": 2, "features": 3, "num_classes": 3, "input_scale": 4.0}
    config = ModelConfig.from_dict({**shape, "norm": "batch", "pooling": pooling})
    bits = QuantConfig.from_name("tiny").replace(input_unary=True)
    twin = twin_of(config, bits)
    return twin, program_of(twin)


@pytest.mark.parametrize("pooling", ["mean", "first", "query"])
def test_program_computes_what_the_quantized_model_does(pooling: str) -> None:
    qat, program = trained(pooling)
    (port,) = program.inputs
    assert (port.shape, port.real_shape, port.hi) == ((1, 2, 3, 3), (1, 2, 3), 1)
    x = np.random.default_rng(0).uniform(-0.5, 5, (32, 2, 3)).astype(np.float32)
    q_x = to_integers(port, x)
    assert np.array_equal(np.sort(q_x, axis=-1)[..., ::-1], q_x)  # first the lowest threshold
    np.testing.assert_allclose(logits_of(program, x), predict(qat, x), atol=1e-5)


def test_a_client_codes_and_encrypts_real_numbers(tmp_path: Path) -> None:
    _, program = trained("query")
    save_deployment(compile_program(program), tmp_path / "deployment")
    client, server = Client(tmp_path / "deployment"), Server(tmp_path / "deployment")
    x = np.array([[[0.1, 2.0, 3.9], [4.0, 0.0, 1.2]]])
    q_x = client.quantize(x)
    assert q_x["x"].shape == (1, 2, 3, 3)
    q_y = client.decrypt(server.run(client.encrypt(q_x), client.evaluation_keys()))
    expected = interpret(program, q_x)
    assert all(np.array_equal(value, expected[name]) for name, value in q_y.items())
    with pytest.raises(InputError, match=r"it takes \(1, 2, 3\)"):
        client.quantize(x[..., :2])


def test_zero_points_of_one_number_each_are_no_code() -> None:
    port = Port("x", (1, 2), 0, 3, zero_point=np.array([0.5, 1.0]))
    assert port.real_shape == (1, 2)
    assert to_integers(port, np.array([[1.0, 1.0]])).tolist() == [[[2, 2]]]
