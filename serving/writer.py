"""A prompt in, ciphertexts out, and written tokens back: the client of a decoder.

>>> writer = Writer("runs/words/deployment")                    # doctest: +SKIP
>>> keys = server.load_keys(writer.evaluation_keys())           # doctest: +SKIP
>>> noises = [writer.noise(temperature=1) for _ in range(8)]    # doctest: +SKIP
>>> request = writer.prompt([0, 13, 1], noises)                 # doctest: +SKIP
>>> for answer in server.write(request, keys):                  # doctest: +SKIP
...     print(writer.interface.labels[writer.read(answer).token])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.decoding.names import (
    LOGITS,
    NEXT,
    NOISE,
    TOKEN,
    absorb_name,
    step_name,
)
from torusformer.fhe_compile.decoding.picking import comparable, draw_noise, one_hot
from torusformer.fhe_compile.deployment.decoder import DecoderInterface
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.serving.cache import EncryptedCache
from torusformer.serving.client import KeyHolder
from torusformer.serving.messages import pack, read_head, unpack


@dataclass(frozen=True, eq=False)
class Written:
    """What one step gave: the token that the server picked, or else the logits (1, V)."""

    position: int
    token: int | None
    logits: IntArray | None


class Writer(KeyHolder[DecoderInterface]):
    """Sends prompts to a decoder and reads what it writes."""

    def __init__(self, folder: str | Path, trust: str | Path | None = None) -> None:
        super().__init__(DecoderInterface, folder, trust)

    def noise(
        self, temperature: float = 0.0, generator: np.random.Generator | None = None
    ) -> IntArray:
        """Of one step, (1, V) integers; temperature 0 is greedy."""
        return draw_noise(self.interface.noise, temperature, generator)

    def prompt(self, tokens: Sequence[int], noises: Sequence[IntArray] = ()) -> bytes:
        """A message for `prefill` and, with a noise for each, that many tokens to write.

        A server that does not pick tokens takes no noise.
        """
        steps = len(noises) if self.interface.picks else 1
        check_prompt(tokens, steps, self.interface.context)
        last = len(tokens) - 1
        functions = [*(absorb_name(p) for p in range(last)), step_name(last)]
        parts = [self._token(f, token) for f, token in zip(functions, tokens, strict=True)]
        for i, noise in enumerate(noises):
            parts += self._encrypted(step_name(last + i), {NOISE: noise})
        return self._message(parts, len(tokens), len(noises))

    def token(self, position: int, token: int) -> bytes:
        """A message for one more step of a server that does not pick tokens."""
        if position >= self.interface.context:
            raise InputError(
                f"position {position} is past the context of {self.interface.context} tokens; "
                "begin a new text, or train with a longer context"
            )
        return self._message([self._token(step_name(position), token)], 1, 0)

    def read(self, answer: bytes) -> Written:
        """The server's answer to one step."""
        about, parts = read_head(
            "outputs",
            unpack("outputs", self.interface.circuit_id, answer),
            position=int,
            names=list,
        )
        position, names = about["position"], about["names"]
        if position >= self.interface.context or len(parts) != len(names):
            raise ArtifactError(
                f"the answer is to step {position} with {len(names)} of {len(parts)} ciphertexts "
                f"named; send the request again"
            )
        expected = [NEXT if self.interface.picks else LOGITS]
        if names != expected:
            raise ArtifactError(f"the answer is not {expected[0]} alone; send the request again")
        found = self._decrypted(step_name(position), dict(zip(names, parts, strict=True)))
        token = int(found[NEXT].argmax()) if NEXT in found else None
        return Written(position, token, found.get(LOGITS))

    def pick(self, written: Written, noise: IntArray) -> int:
        """The token that the server picked, or would have picked of these logits and this noise."""
        if written.token is not None:
            return written.token
        assert written.logits is not None, "a step gives one of both"
        logits = comparable(self.interface.logits(written.position), written.logits)
        return self.interface.window.pick(logits, noise)

    def reveal(self, cache: bytes) -> dict[str, IntArray]:
        """What a server's cache holds, by name: for whoever has the key and wants to check it."""
        held = EncryptedCache.from_bytes(cache, self.interface.circuit_id)
        found = {}
        for name, value in held.entries.items():
            function = f"step{name.rpartition('.')[2]}"  # of the position that gave it
            given = function in self.interface.functions
            found.update(self._decrypted(function, {name: value}) if given else {})
            if name not in found:
                raise ArtifactError(f"the cache holds {name!r}, which no step gives; prefill again")
        return found

    def _message(self, parts: Sequence[bytes], tokens: int, noises: int) -> bytes:
        about = {"key_id": self.key_id, "tokens": tokens, "noises": noises}
        return pack("prompt", self.interface.circuit_id, [json.dumps(about).encode(), *parts])

    def _token(self, function: str, token: int) -> bytes:
        (part,) = self._encrypted(function, {TOKEN: one_hot(token, len(self.interface.labels))})
        return part


def check_prompt(tokens: Sequence[object], steps: int, context: int) -> None:
    """Refuse an empty prompt, one that is too long, and more steps than the context has."""
    if not tokens:
        raise InputError("the prompt holds no token; every text begins with the mark, token 0")
    if len(tokens) > context:
        raise InputError(
            f"the prompt has {len(tokens)} tokens, the mark among them, and the context is "
            f"{context}; shorten it, or train with a longer context"
        )
    if len(tokens) + steps - 1 > context:
        raise InputError(
            f"{len(tokens)} tokens of prompt and {steps} more are past the context of {context}; "
            f"at most {context - len(tokens) + 1} can be written"
        )
