"""Encrypted generation: the text, the cache after every step, and what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoders import one_hot, program
from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.circuit.circuit import Module
from torusformer.fhe_compile.circuit.functions import plan_module
from torusformer.fhe_compile.decoding.decoder import DecoderProgram
from torusformer.fhe_compile.decoding.loop import Cache
from torusformer.fhe_compile.decoding.names import FEEDBACK
from torusformer.fhe_compile.decoding.picking import draw_noise
from torusformer.fhe_compile.deployment.deployment import save_decoder_deployment
from torusformer.fhe_compile.prices.failure import FAST
from torusformer.pipelines.writing import (
    EncryptedWriting,
    Request,
    compile_decoder,
    simulated,
    text_of,
    write_clear,
)
from torusformer.serving import EncryptedCache, Writer, WritingServer

CONTEXT, LETTERS = 3, "abcd"


@cache
def picking() -> DecoderProgram:
    return program("tiny-words", CONTEXT, LETTERS, bits=4).with_picking()


@pytest.fixture(scope="module")
def module() -> Module:
    return compile_decoder(picking())


@pytest.fixture(scope="module")
def folder(module: Module, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picking") / "deployment"
    save_decoder_deployment(module, path)
    return path


@pytest.fixture(scope="module")
def parties(folder: Path) -> EncryptedWriting:
    return EncryptedWriting(folder)


def clear_caches(request: Request) -> Iterator[Cache]:
    """What the interpreter keeps after each step."""
    prompt = [one_hot(token, 1 + len(LETTERS)) for token in request.tokens]
    cache = Cache().absorb(picking().run, prompt)
    for noise in request.noises:
        _, cache = cache.step(picking().run, noise)
        yield cache


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "count"), [(0.0, 1), (1.0, 2)])
def test_the_server_alone_writes_the_programs_text(parties, temperature: float, count: int):
    """Greedy, and a sample with the noise that the client sent."""
    request = Request.of(picking(), "a", count, temperature, seed=3)
    written = list(parties.write(request))
    expected = list(write_clear(picking(), request))
    assert [c.token for c in written] == [c.token for c in expected]
    assert text_of(written, picking().labels) == text_of(expected, picking().labels)


@pytest.mark.slow
def test_the_encrypted_cache_is_the_clear_one_after_every_step(parties):
    request = Request.of(picking(), "b", 2, 0.0, seed=0)
    server, client = parties.server, parties.client
    prompt = server.open(client.prompt(request.tokens, request.noises))
    cache = server.prefill(prompt, parties.keys)
    for i, (noise, expected) in enumerate(zip(prompt.noises, clear_caches(request), strict=True)):
        _, cache = server.step(cache, parties.keys, noise)
        assert cache.position == expected.position == len(request.tokens) + i
        # The bytes are what a server would put to disk between two steps.
        cache = EncryptedCache.from_bytes(cache.to_bytes(), cache.circuit_id)
        found = client.reveal(cache.to_bytes())
        assert found.keys() == expected.entries.keys()
        assert all(np.array_equal(found[name], expected.entries[name]) for name in found)


def test_simulation_writes_the_same(module: Module):
    decoder = picking()
    request = Request.of(decoder, "a", 2, 1.0, seed=1)
    written = write_clear(decoder, request, simulated(module))
    assert [c.token for c in written] == [c.token for c in write_clear(decoder, request)]


def test_either_loop_picks_the_same():
    for seed in range(20):
        request = Request.of(picking(), "", CONTEXT, 1.0, seed)
        one, other = (
            [c.token for c in write_clear(decoder, request)]
            for decoder in (picking(), program("tiny-words", CONTEXT, LETTERS, bits=4))
        )
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny-gpt2", "tiny-llama"])
def test_several_layers_in_an_open_loop(preset: str, tmp_path):
    """The client picks; norms, gates, rotations and grouped queries all run encrypted."""
    decoder = program(preset, 2, LETTERS, bits=4)
    save_decoder_deployment(compile_decoder(decoder, FAST), tmp_path / "d")
    parties = EncryptedWriting(tmp_path / "d")
    for prompt, count in (("", 1), ("c", 1)):
        request = Request.of(decoder, prompt, count, 1.0, seed=2)
        written = [c.token for c in parties.write(request)]
        assert written == [c.token for c in write_clear(decoder, request)]
    with pytest.raises(InputError, match="position 2 is past the context of 2"):
        parties.client.token(2, 0)


@given(st.text(LETTERS, max_size=CONTEXT + 2), st.integers(1, CONTEXT + 2), st.integers(0, 9))
def test_any_prompt_is_written_on_or_refused(text: str, count: int, seed: int):
    decoder = picking()
    if 1 + len(text) + count - 1 > CONTEXT:
        with pytest.raises(InputError, match=r"past the context|the prompt has"):
            Request.of(decoder, text, count, 1.0, seed)
        return
    request = Request.of(decoder, text, count, 1.0, seed)
    written = list(write_clear(decoder, request))
    assert len(written) == count
    again = list(write_clear(decoder, request))
    assert [c.token for c in written] == [c.token for c in again]


def test_unknown_characters_are_named():
    with pytest.raises(InputError, match="'É' is not among the characters of this model: abc"):
        Request.of(picking(), "É", 1, 0.0, 0)


@pytest.mark.slow
def test_a_full_cache_takes_no_more_and_stays_whole(parties):
    server, client, keys = parties.server, parties.client, parties.keys
    request = Request.of(picking(), "ab", 1, 0.0, 0)
    prompt = server.open(client.prompt(request.tokens, request.noises))
    before = server.prefill(prompt, keys)
    answer, full = server.step(before, keys, prompt.noises[0])
    assert full.position == CONTEXT
    held = full.to_bytes()
    with pytest.raises(InputError, match="the cache is full: it holds 3 tokens"):
        server.step(full, keys, prompt.noises[0])
    assert full.to_bytes() == held
    again, _ = server.step(before, keys, prompt.noises[0])  # the one before is as it was
    assert client.read(again).token == client.read(answer).token


@pytest.mark.slow
def test_a_cache_under_other_keys_is_refused(parties):
    """That other keys have another id: `test_serving.py`, on smaller ones."""
    request = Request.of(picking(), "", 1, 0.0, 0)
    prompt = parties.server.open(parties.client.prompt(request.tokens, request.noises))
    cache = parties.server.prefill(prompt, parties.keys)
    foreign = replace(parties.keys, key_id="0" * 64)
    with pytest.raises(ArtifactError, match="the cache is under other keys"):
        parties.server.prefill(prompt, foreign)
    with pytest.raises(ArtifactError, match="the cache is under other keys"):
        parties.server.step(cache, foreign, prompt.noises[0])
    answer, _ = parties.server.step(cache, parties.keys, prompt.noises[0])
    expected = list(write_clear(picking(), request))
    assert parties.client.read(answer).token == expected[0].token


@pytest.mark.slow
def test_a_cache_of_another_circuit_is_refused(parties):
    cache = EncryptedCache(circuit_id="0" * 64, key_id=parties.client.key_id)
    with pytest.raises(ArtifactError, match="the cache is of another circuit"):
        parties.server.step(cache, parties.keys, object())
    with pytest.raises(ArtifactError, match="of another circuit"):
        EncryptedCache.from_bytes(cache.to_bytes(), parties.server.interface.circuit_id)


@pytest.mark.slow
def test_prompts_that_cannot_be_written_on_are_refused_by_both_sides(parties):
    noise = draw_noise(picking().noise, 0.0)
    with pytest.raises(InputError, match="the prompt holds no token"):
        parties.client.prompt([], [noise])
    with pytest.raises(InputError, match="the prompt has 4 tokens"):
        parties.client.prompt([0] * 4, [noise])
    with pytest.raises(InputError, match="at most 2 can be written"):
        parties.client.prompt([0] * 2, [noise] * 3)
    prompt = parties.server.open(parties.client.prompt([0], [noise]))
    with pytest.raises(InputError, match="takes noise"):
        cache = parties.server.prefill(prompt, parties.keys)
        parties.server.step(cache, parties.keys)


def test_what_passes_between_steps_is_narrow():
    """Two bits of a code and one of room; the bits of a token likewise."""
    planned = plan_module(picking().functions, FEEDBACK)
    wired = [
        port for f in planned.functions.values()
        for port in (*f.encoding.inputs, *f.encoding.outputs) if port.wired
    ]  # fmt: skip
    assert {port.port.name.split(".")[0] for port in wired} == {"key", "value", "token", "next"}
    assert max(port.bits for port in wired) <= 5


@pytest.mark.slow
def test_a_cache_that_was_tampered_with_is_refused(parties):
    server = parties.server
    prompt = server.open(parties.client.prompt([0, 1], [parties.client.noise()]))
    cache = server.prefill(prompt, parties.keys)
    empty = replace(cache, entries={})
    with pytest.raises(ArtifactError, match=r"the cache lacks 'key\.0\.0' for step1"):
        server.step(empty, parties.keys, prompt.noises[0])


def test_the_server_folder_cannot_decrypt(folder: Path, tmp_path):
    """It has no client, and nothing of a client."""
    for name in ("server.zip", "interface.json", "versions.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    WritingServer(tmp_path)
    with pytest.raises(ArtifactError, match=r"has no client\.zip"):
        Writer(tmp_path)
