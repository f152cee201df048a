"""What a server keeps between two steps of a decoder: ciphertexts, and whose and where they are."""

from __future__ import annotations

import json
from dataclasses import dataclass

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.decoding.loop import Cache
from torusformer.serving.messages import pack, read_head, unpack


@dataclass(frozen=True, eq=False, kw_only=True)
class EncryptedCache(Cache[bytes]):
    """Ciphertexts as they are serialized.

    `circuit_id` is the module that made them, `key_id` the keys they are under.
    """

    circuit_id: str
    key_id: str

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
        return pack("cache", self.circuit_id, [json.dumps(about).encode(), *values])

    @classmethod
    def from_bytes(cls, message: bytes, circuit_id: str) -> EncryptedCache:
        """Inverse of `to_bytes`."""
        about, values = read_head(
            "cache",
            unpack("cache", circuit_id, message),
            key_id=str,
            position=int,
            names=list,
            token=bool,
        )
        names = about["names"]
        if not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
            raise ArtifactError("the cache names its ciphertexts twice or not; prefill again")
        if len(values) != len(names) + about["token"]:
            raise ArtifactError(
                f"the cache holds {len(values)} ciphertexts and names {len(names)}; prefill again"
            )
        token = values.pop() if about["token"] else None
        return cls(
            position=about["position"],
            entries=dict(zip(names, values, strict=True)),
            token=token,
            circuit_id=circuit_id,
            key_id=about["key_id"],
        )
