"""Ciphertexts and evaluation keys in, ciphertexts out: the side with the model.

Nothing here can hold a secret key: `server.zip` has none, and the only key message it takes is the
evaluation keys, which are deserialized as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torusformer import ArtifactError
from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.deployment.deployment import load_interface
from torusformer.serving.messages import decode, pack, unpack


class Server:
    """Runs one deployment's circuit on what clients send."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.interface = load_interface(folder, "server.zip")
        self._inner = fhe.Server.load(folder / "server.zip")

    def load_keys(self, evaluation_keys: bytes) -> Any:
        """Evaluation keys to hand to `run` several times: reading them takes seconds."""
        (part,) = unpack("evaluation keys", self.interface.circuit_id, evaluation_keys)
        return decode("evaluation keys", fhe.EvaluationKeys.deserialize, part)

    def run(self, inputs: bytes, evaluation_keys: Any) -> bytes:
        """The circuit on a client's message; keys as bytes or from `load_keys`."""
        parts = unpack("inputs", self.interface.circuit_id, inputs)
        if len(parts) != len(self.interface.inputs):
            raise ArtifactError(
                f"the message holds {len(parts)} inputs, the circuit takes "
                f"{len(self.interface.inputs)}"
            )
        if isinstance(evaluation_keys, bytes):
            evaluation_keys = self.load_keys(evaluation_keys)
        values = [decode("inputs", fhe.Value.deserialize, part) for part in parts]
        results = self._inner.run(*values, evaluation_keys=evaluation_keys)
        results = results if isinstance(results, tuple) else (results,)
        answer = [result.serialize() for result in results]
        return pack("outputs", self.interface.circuit_id, answer)
