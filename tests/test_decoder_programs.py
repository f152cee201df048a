"""What a quantized decoder computes for a text is what its steps compute, token by token."""

import numpy as np
import onnxruntime
import pytest
import torch

from tests.decoders import PRESETS, one_hot, program, quantized, words
from torusformer import ArtifactError
from torusformer.fhe_compile import interpret
from torusformer.fhe_compile.decoding.decoder import (
    DecoderProgram,
    load_decoder,
    lower_decoder,
    save_decoder,
)
from torusformer.fhe_compile.program.nodes import Program
from torusformer.fhe_compile.program.onnx_io import to_onnx
from torusformer.models import ModelConfig, Transformer
from torusformer.pipelines.measure import program_nll
from torusformer.quantize import QuantTransformer, evaluate


def chained(decoder: DecoderProgram, tokens: list[int]) -> list[dict[str, np.ndarray]]:
    """All values of every step of a text."""
    cache: dict[str, np.ndarray] = {}
    found = []
    for step, token in zip(decoder.steps, tokens, strict=False):
        values = interpret(step, needed(step, token, cache))
        cache |= {port.name: values[port.name] for port in step.outputs}
        found.append(values)
    return found


def needed(step: Program, token: int, cache: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {p.name: one_hot(token) if p.name == "token" else cache[p.name] for p in step.inputs}


@pytest.mark.parametrize("preset", PRESETS)
def test_steps_compute_what_the_quantized_decoder_does(preset: str):
    decoder, twin = program(preset), quantized(preset)
    texts = words(decoder.context).x_test[:8]
    with torch.no_grad():
        logits = twin(torch.from_numpy(texts)).numpy()
    for text, expected in zip(texts.tolist(), logits, strict=True):
        for p, values in enumerate(chained(decoder, text)):
            (port,) = (port for port in decoder.steps[p].outputs if port.name == "logits")
            found = port.scale * (values["logits"][0] - port.zero_point)
            assert np.abs(found - expected[p]).max() < 1e-3 * float(port.scale), p


@pytest.mark.parametrize("preset", PRESETS)
def test_onnx_runtime_computes_every_step(preset: str):
    decoder = program(preset)
    text = words(decoder.context).x_test[0].tolist()
    cache: dict[str, np.ndarray] = {}
    for p, values in enumerate(chained(decoder, text)):
        step = decoder.steps[p]
        session = onnxruntime.InferenceSession(to_onnx(step).SerializeToString())
        given = session.run(None, needed(step, text[p], cache))
        for port, value in zip(step.outputs, given, strict=True):
            assert np.array_equal(value, values[port.name]), port.name
        cache |= {port.name: values[port.name] for port in step.outputs}


@pytest.mark.parametrize("preset", PRESETS)
def test_absorbing_leaves_what_a_step_leaves(preset: str):
    decoder = program(preset)
    text = words(decoder.context).x_test[1].tolist()
    steps = chained(decoder, text)
    cache: dict[str, np.ndarray] = {}
    for p, (step, values) in enumerate(zip(decoder.steps[:-1], steps, strict=False)):
        found = decoder.run(f"absorb{p}", {"token": one_hot(text[p]), **cache})
        assert found.keys() == {port.name for port in step.outputs} - {"logits"}
        assert all(np.array_equal(found[name], values[name]) for name in found)
        cache |= found


def test_absorbing_computes_nothing_for_logits():
    """In one block, keys and values are the token's alone; in several, the last one is left out."""
    one, several = program("tiny-words").functions, program("tiny-gpt2").functions
    assert [port.name for port in one["absorb2"].inputs] == ["token"]
    layers = {name: {node.layer for node in several[name].nodes} for name in ("absorb1", "step1")}
    assert layers["absorb1"] < layers["step1"]
    noisy = program("tiny-words").with_picking().functions["absorb2"]
    assert len(noisy.nodes) == len(one["absorb2"].nodes)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_later_token_changes_no_earlier_logit(preset: str):
    """In the float decoder and in its quantized twin; steps cannot see later tokens at all."""
    config = ModelConfig.from_name(preset)
    torch.manual_seed(0)
    text = torch.randint(0, 27, (4, config.tokens))
    for model in (Transformer(config).eval(), quantized(preset)):
        with torch.no_grad():
            before = model(text)
            for p in range(1, config.tokens):
                other = text.clone()
                other[:, p:] = (other[:, p:] + 1) % 27
                assert torch.equal(model(other)[:, :p], before[:, :p])


def test_the_programs_lose_what_the_quantized_decoder_loses():
    decoder, twin, task = program("tiny-words"), quantized("tiny-words"), words(6)
    loss = program_nll(decoder, task.x_test, task.y_test)
    assert loss == pytest.approx(evaluate(twin, task), abs=1e-4)


def test_a_decoder_keeps_on_disk(tmp_path):
    decoder = program("tiny-gpt2")
    save_decoder(decoder, tmp_path / "decoder")
    found = load_decoder(tmp_path / "decoder")
    assert found.metadata == decoder.metadata
    text = [0, 3, 5]
    for one, other in zip(chained(found, text), chained(decoder, text), strict=True):
        assert np.array_equal(one["logits"], other["logits"])
    index = tmp_path / "decoder" / "decoder.json"
    kept = index.read_text()
    index.write_text(kept.replace('"labels"', '"marks"'))
    with pytest.raises(ArtifactError, match=r"decoder\.json: truncated or not JSON of ours"):
        load_decoder(tmp_path / "decoder")
    index.write_text(kept)
    (tmp_path / "decoder" / "step.1.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"step\.1\.onnx"):
        load_decoder(tmp_path / "decoder")


def test_a_folder_that_is_no_decoder_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"has no decoder\.json"):
        load_decoder(tmp_path)
    with pytest.raises(ArtifactError, match=r"step\.0 is missing"):
        lower_decoder([], {})


@pytest.mark.parametrize("preset", PRESETS)
def test_checkpoints_of_both_models(preset: str, tmp_path):
    config = ModelConfig.from_name(preset)
    text = torch.from_numpy(words(config.tokens).x_test[:4])
    torch.manual_seed(1)
    model = Transformer(config).eval()
    model.save_pretrained(tmp_path / "float")
    twin = quantized(preset)
    twin.save_pretrained(tmp_path / "qat")
    with torch.no_grad():
        assert torch.equal(Transformer.from_pretrained(tmp_path / "float")(text), model(text))
        assert torch.equal(QuantTransformer.from_pretrained(tmp_path / "qat")(text), twin(text))
