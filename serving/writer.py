"""A prompt in, ciphertexts out, and written tokens back: the client of a decoder.

>>> writer = Writer("runs/words/deployment")                    # doctest: +SKIP
>>> keys = server.load_keys(writer.evaluation_keys())           # doctest: +SKIP
>>> noises = [writer.noise(temperature=1) for _ in range(8)]    # doctest: +SKIP
>>> request = writer.prompt([0, 13, 1], noises)                 # doctest: +SKIP
>>> for answer in server.write(request, keys):                  # doctest: +SKIP
...     print(writer.interface.labels[writer.read(answer).token])
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from torusformer import InputError
from torusformer.fhe_compile.circuit.backend import decrypt_output, fhe
from torusformer.fhe_compile.decoding.closing import comparable, draw_noise, noise_port
from torusformer.fhe_compile.decoding.names import (
    LOGITS,
    NEXT,
    NOISE,
    TOKEN,
    absorb_name,
    step_name,
)
from torusformer.fhe_compile.deployment.decoder import load_decoder_interface
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import check_array
from torusformer.serving.cache import EncryptedCache
from torusformer.serving.messages import decode, pack, read_head, unpack


@dataclass(frozen=True, eq=False)
class Written:
    """What one step gave: the token that the server picked, or None, and the logits (1, V)."""

    position: int
    token: int | None
    logits: IntArray


class Writer:
    """Keys, encryption and decryption for one decoder. Never sees the circuit."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.interface = load_decoder_interface(folder, "client.zip")
        self._inner = fhe.Client.load(folder / "client.zip")

    def keygen(self, force: bool = False) -> None:
        """Make the secret and evaluation keys; once, unless `force`."""
        self._inner.keygen(force=force)
        if force:
            self.__dict__.pop("_evaluation_keys", None)

    @cached_property
    def _evaluation_keys(self) -> bytes:
        keys = self._inner.evaluation_keys.serialize()
        return pack("evaluation keys", self.interface.circuit_id, [keys])

    def evaluation_keys(self) -> bytes:
        """What the server needs to compute on ciphertexts; it cannot decrypt with them."""
        return self._evaluation_keys

    @property
    def key_id(self) -> str:
        """Tells these keys from others."""
        return hashlib.sha256(self._evaluation_keys).hexdigest()

    def noise(
        self, temperature: float = 0.0, generator: np.random.Generator | None = None
    ) -> IntArray:
        """Of one step, (1, V) integers; temperature 0 is greedy."""
        logits = self.interface.functions[step_name(0)].output(LOGITS).port
        return draw_noise(noise_port(logits), temperature, generator)

    def prompt(self, tokens: Sequence[int], noises: Sequence[IntArray] = ()) -> bytes:
        """A message for `prefill` and, with a noise for each, that many tokens to write.

        A server that does not pick tokens takes no noise.
        """
        steps = len(noises) if self.interface.closed else 1
        check_prompt(tokens, steps, self.interface.context)
        last = len(tokens) - 1
        functions = [*(absorb_name(p) for p in range(last)), step_name(last)]
        parts = [self._one_hot(f, t) for f, t in zip(functions, tokens, strict=True)]
        parts += [
            self._encrypted(step_name(last + i), NOISE, noise) for i, noise in enumerate(noises)
        ]
        return self._message(parts, len(tokens), len(noises))

    def token(self, position: int, token: int) -> bytes:
        """A message for one more step of a server that does not pick tokens."""
        if position >= self.interface.context:
            raise InputError(
                f"position {position} is past the context of {self.interface.context} tokens; "
                "begin a new text, or train with a longer context"
            )
        return self._message([self._one_hot(step_name(position), token)], 1, 0)

    def read(self, answer: bytes) -> Written:
        """The server's answer to one step."""
        head, *parts = unpack("outputs", self.interface.circuit_id, answer)
        about = read_head("outputs", head, "position", "names")
        function = step_name(int(about["position"]))
        values = [decode("outputs", fhe.Value.deserialize, part) for part in parts]
        found = {
            name: self._decrypted(function, name, value)
            for name, value in zip(about["names"], values, strict=True)
        }
        token = int(found[NEXT].argmax()) if NEXT in found else None
        return Written(int(about["position"]), token, found[LOGITS])

    def pick(self, written: Written, noise: IntArray) -> int:
        """The token that a server would pick from these logits with this noise."""
        logits = self.interface.functions[step_name(written.position)].output(LOGITS).port
        return self.interface.window.pick(comparable(logits, written.logits), noise)

    def reveal(self, cache: bytes) -> dict[str, IntArray]:
        """What a server's cache holds, by name: for whoever has the key and wants to check it."""
        held = EncryptedCache.from_bytes(cache, self.interface.circuit_id)
        return {
            name: self._decrypted(step_name(int(name.rsplit(".", 1)[1])), name, value)
            for name, value in held.entries.items()
        }

    def _decrypted(self, function: str, name: str, value: fhe.Value) -> IntArray:
        ports = self.interface.functions[function].outputs
        position = next(i for i, encoded in enumerate(ports) if encoded.port.name == name)
        result = decrypt_output(self._inner, function, position, value)
        return ports[position].decode(np.asarray(result))

    def _message(self, parts: Sequence[bytes], tokens: int, noises: int) -> bytes:
        about = {"key_id": self.key_id, "tokens": tokens, "noises": noises}
        return pack("prompt", self.interface.circuit_id, [json.dumps(about).encode(), *parts])

    def _one_hot(self, function: str, token: int) -> bytes:
        port = self.interface.port(function, TOKEN)
        return self._encrypted(function, TOKEN, np.eye(port.shape[-1], dtype=np.int64)[[token]])

    def _encrypted(self, function: str, name: str, value: IntArray) -> bytes:
        """One input of a function as a serialized ciphertext."""
        ports = self.interface.functions[function].inputs
        arguments: list[Any] = [
            e.encode(check_array(e.port, value)) if e.port.name == name else None for e in ports
        ]
        values = self._inner.encrypt(*arguments, function_name=function)
        values = values if isinstance(values, tuple) else (values,)
        return bytes(next(v for v in values if v is not None).serialize())


def check_prompt(tokens: Sequence[int], steps: int, context: int) -> None:
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
