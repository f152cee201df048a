"""Encrypted prompt in, encrypted text out: the server of a decoder, which reads neither.

It runs step after step on what the step before left, picks the next token itself where the
deployment is closed, and can hold no secret key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.decoding.names import (
    LOGITS,
    NEXT,
    NOISE,
    TOKEN,
    absorb_name,
    step_name,
)
from torusformer.fhe_compile.deployment.decoder import load_decoder_interface
from torusformer.serving.cache import EncryptedCache
from torusformer.serving.messages import decode, pack, read_head, unpack
from torusformer.serving.writer import check_prompt


@dataclass(frozen=True, eq=False)
class EvaluationKeys:
    """A client's keys, read once, and what tells them from others."""

    key_id: str
    inner: Any


@dataclass(frozen=True, eq=False)
class Prompt:
    """Ciphertexts of the tokens of a prompt and of the noise of the steps to come."""

    key_id: str
    tokens: tuple[Any, ...]
    noises: tuple[Any, ...]


class WritingServer:
    """Runs one decoder on what clients send."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.interface = load_decoder_interface(folder, "server.zip")
        self._inner = fhe.Server.load(folder / "server.zip")

    def load_keys(self, evaluation_keys: bytes) -> EvaluationKeys:
        """Evaluation keys to hand over several times: reading them takes seconds."""
        (part,) = unpack("evaluation keys", self.interface.circuit_id, evaluation_keys)
        key_id = hashlib.sha256(evaluation_keys).hexdigest()
        inner = decode("evaluation keys", fhe.EvaluationKeys.deserialize, part)
        return EvaluationKeys(key_id, inner)

    def open(self, message: bytes) -> Prompt:
        """A client's message, checked but not computed on."""
        head, *parts = unpack("prompt", self.interface.circuit_id, message)
        about = read_head("prompt", head, "key_id", "tokens", "noises")
        values = [decode("prompt", fhe.Value.deserialize, part) for part in parts]
        tokens, noises = int(about["tokens"]), int(about["noises"])
        if len(values) != tokens + noises:
            raise ArtifactError(
                f"the prompt holds {len(values)} ciphertexts, not {tokens} tokens and {noises} "
                "noises; send it again"
            )
        return Prompt(str(about["key_id"]), tuple(values[:tokens]), tuple(values[tokens:]))

    def prefill(self, prompt: Prompt, keys: EvaluationKeys) -> EncryptedCache:
        """The cache of all tokens of a prompt but the last, which is the one to go on from."""
        steps = len(prompt.noises) if self.interface.closed else 1
        check_prompt(prompt.tokens, steps, self.interface.context)
        circuit_id = self.interface.circuit_id
        cache = EncryptedCache(circuit_id, prompt.key_id, 0, {})
        for token in prompt.tokens[:-1]:
            _, cache = self._run(absorb_name(cache.position), replace(cache, token=token), keys)
        return replace(cache, token=prompt.tokens[-1])

    def step(
        self, cache: EncryptedCache, keys: EvaluationKeys, noise: Any = None, token: Any = None
    ) -> tuple[bytes, EncryptedCache]:
        """The answer to the cache's next token, or to `token`, and the cache with it."""
        cache.check(self.interface.circuit_id, keys.key_id, self.interface.context)
        if self.interface.closed and noise is None:
            raise InputError("a step that picks a token takes noise; the prompt held less of it")
        if token is not None:
            cache = replace(cache, token=token)
        if cache.token is None:
            raise InputError("the server picks no token here: the client sends one for each step")
        given, new = self._run(step_name(cache.position), cache, keys, noise)
        names = [name for name in (LOGITS, NEXT) if name in given]
        about = json.dumps({"position": cache.position, "names": names}).encode()
        parts = [about, *(given[name].serialize() for name in names)]
        return pack("outputs", self.interface.circuit_id, parts), new

    def write(self, message: bytes, keys: EvaluationKeys) -> Iterator[bytes]:
        """Every answer, as soon as it is there: as many tokens as the prompt has noises."""
        prompt = self.open(message)
        cache = self.prefill(prompt, keys)
        for noise in prompt.noises:
            answer, cache = self.step(cache, keys, noise)
            yield answer

    def _run(
        self, function: str, cache: EncryptedCache, keys: EvaluationKeys, noise: Any = None
    ) -> tuple[Mapping[str, Any], EncryptedCache]:
        """All outputs of a function on a cache and its next token, and the cache behind it."""
        cache.check(self.interface.circuit_id, keys.key_id, self.interface.context)
        ports = self.interface.functions[function]
        values = {**cache.entries, TOKEN: cache.token, NOISE: noise}
        names = [encoded.port.name for encoded in ports.inputs]
        if missing := [name for name in names if values.get(name) is None]:
            raise ArtifactError(f"the cache lacks {missing[0]!r} for {function}; prefill again")
        arguments = [values[name] for name in names]
        results = self._inner.run(*arguments, evaluation_keys=keys.inner, function_name=function)
        results = results if isinstance(results, tuple) else (results,)
        names = [encoded.port.name for encoded in ports.outputs]
        given = dict(zip(names, results, strict=False))
        entries = {name: given[name] for name in names if name not in (LOGITS, NEXT)}
        new = replace(
            cache,
            position=cache.position + 1,
            entries={**cache.entries, **entries},
            token=given.get(NEXT),
        )
        return given, new
