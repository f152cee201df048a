"""What a server keeps between two steps of a decoder: ciphertexts, and whose and where they are.

A cache is frozen. A step makes a new one, so that whatever goes wrong in it, the old one is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.serving.messages import decode, pack, read_head, unpack


@dataclass(frozen=True, eq=False)
class EncryptedCache:
    """Ciphertexts of keys and values of the first `position` tokens, by name.

    `circuit_id` is the module that made them, `key_id` the client's keys they are under. `token`
    is the next token where the server picked one.
    """

    circuit_id: str
    key_id: str
    position: int
    entries: Mapping[str, Any]
    token: Any = None

    def check(self, circuit_id: str, key_id: str, context: int) -> None:
        """Refuse to go on with other keys, in another module, or past the context."""
        if self.circuit_id != circuit_id:
            raise ArtifactError(
                f"the cache is of another circuit ({self.circuit_id[:12]}, here "
                f"{circuit_id[:12]}); prefill again with this deployment"
            )
        if self.key_id != key_id:
            raise ArtifactError(
                f"the cache is under other keys ({self.key_id[:12]}, here {key_id[:12]}); give "
                f"the evaluation keys of the client whose prompt it holds"
            )
        if self.position >= context:
            raise InputError(
                f"the cache is full: it holds {self.position} tokens and the context is "
                f"{context}; begin a new text, or train with a longer context"
            )

    def to_bytes(self) -> bytes:
        """A message; the ciphertexts in it are as they are, under the client's key."""
        about = {"key_id": self.key_id, "position": self.position, "names": list(self.entries)}
        about["token"] = self.token is not None
        values = [*self.entries.values(), *([self.token] if self.token is not None else [])]
        parts = [json.dumps(about).encode(), *(value.serialize() for value in values)]
        return pack("cache", self.circuit_id, parts)

    @classmethod
    def from_bytes(cls, message: bytes, circuit_id: str) -> EncryptedCache:
        """Inverse of `to_bytes`."""
        head, *parts = unpack("cache", circuit_id, message)
        about = read_head("cache", head, "key_id", "position", "names", "token")
        values = [decode("cache", fhe.Value.deserialize, part) for part in parts]
        names = list(about["names"])
        if len(values) != len(names) + bool(about["token"]):
            raise ArtifactError(
                f"the cache holds {len(values)} ciphertexts and names {len(names)}; prefill again"
            )
        token = values.pop() if about["token"] else None
        entries = dict(zip(names, values, strict=True))
        return cls(circuit_id, about["key_id"], about["position"], entries, token)
