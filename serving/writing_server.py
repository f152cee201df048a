"""Encrypted prompt in, encrypted text out: the server of a decoder, which reads neither.

It runs step after step on what the step before left, picks the next token itself where the
deployment does that, and can hold no secret key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.decoding.loop import Run, write
from torusformer.fhe_compile.decoding.names import LOGITS, NEXT
from torusformer.fhe_compile.deployment.decoder import DecoderInterface
from torusformer.serving.cache import EncryptedCache
from torusformer.serving.messages import pack, read_head, unpack
from torusformer.serving.process import TIME_LIMIT
from torusformer.serving.server import EvaluationKeys, Evaluator
from torusformer.serving.writer import check_prompt


@dataclass(frozen=True, eq=False)
class Prompt:
    """Ciphertexts of the tokens of a prompt and of the noise of the steps to come."""

    key_id: str
    tokens: tuple[bytes, ...]
    noises: tuple[bytes, ...]


class WritingServer(Evaluator[DecoderInterface]):
    """Runs one decoder on what clients send."""

    def __init__(
        self,
        folder: str | Path,
        trust: str | Path | None = None,
        threads: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        super().__init__(DecoderInterface, folder, trust, threads, time_limit)

    def open(self, message: bytes) -> Prompt:
        """A client's message, checked but not computed on."""
        about, parts = read_head(
            "prompt",
            unpack("prompt", self.interface.circuit_id, message),
            key_id=str,
            tokens=int,
            noises=int,
        )
        tokens, noises = about["tokens"], about["noises"]
        if len(parts) != tokens + noises:
            raise ArtifactError(
                f"the prompt holds {len(parts)} ciphertexts, not {tokens} tokens and {noises} "
                "noises; send it again"
            )
        return Prompt(about["key_id"], tuple(parts[:tokens]), tuple(parts[tokens:]))

    def prefill(self, prompt: Prompt, keys: EvaluationKeys) -> EncryptedCache:
        """The cache of all tokens of a prompt but the last, which is the one to go on from."""
        steps = len(prompt.noises) if self.interface.picks else 1
        check_prompt(prompt.tokens, steps, self.interface.context)
        cache = EncryptedCache(circuit_id=self.interface.circuit_id, key_id=prompt.key_id)
        self._check(cache, keys)
        return cache.absorb(self._running(keys), prompt.tokens)

    def step(
        self,
        cache: EncryptedCache,
        keys: EvaluationKeys,
        noise: bytes | None = None,
        token: bytes | None = None,
    ) -> tuple[bytes, EncryptedCache]:
        """The answer to the cache's next token, or to `token`, and the cache with it."""
        self._check(cache, keys)
        if self.interface.picks and noise is None:
            raise InputError("a step that picks a token takes noise; the prompt held less of it")
        if token is not None:
            cache = replace(cache, token=token)
        if cache.token is None:
            raise InputError("the server picks no token here: the client sends one for each step")
        given, new = cache.step(self._running(keys), noise)
        names = [name for name in (LOGITS, NEXT) if name in given]
        about = json.dumps({"position": cache.position, "names": names}).encode()
        parts = [about, *(given[name] for name in names)]
        return pack("outputs", self.interface.circuit_id, parts), new

    def write(
        self, message: bytes, keys: EvaluationKeys, ask: Callable[[], bytes] | None = None
    ) -> Iterator[bytes]:
        """Every answer, as soon as it is there: as many tokens as the prompt has noises.

        A server that picks no tokens asks for the client's message with each, and goes on for as
        long as answers are taken from it.
        """
        prompt = self.open(message)

        def step(cache: EncryptedCache, noise: bytes | None) -> tuple[bytes, EncryptedCache]:
            asked = self._asked(ask()) if ask and cache.token is None else None
            return self.step(cache, keys, noise, asked)

        noises: Iterable[bytes | None] = prompt.noises if self.interface.picks else repeat(None)
        return write(step, self.prefill(prompt, keys), noises)

    def _asked(self, message: bytes) -> bytes:
        """The token of a client's message with one."""
        tokens = self.open(message).tokens
        if len(tokens) != 1:
            raise InputError(f"the client sent {len(tokens)} tokens for a step; it takes one")
        return tokens[0]

    def _check(self, cache: EncryptedCache, keys: EvaluationKeys) -> None:
        cache.check(self.interface.circuit_id, keys.key_id, self.interface.context)

    def _running(self, keys: EvaluationKeys) -> Run[bytes]:
        def run(function: str, values: Mapping[str, bytes]) -> Mapping[str, bytes]:
            taken = [encoded.port.name for encoded in self.interface.functions[function].inputs]
            if missing := [name for name in taken if name not in values]:
                raise ArtifactError(f"the cache lacks {missing[0]!r} for {function}; prefill again")
            return self._run(function, values, keys)

        return run
