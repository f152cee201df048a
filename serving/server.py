"""Ciphertexts and evaluation keys in, ciphertexts out: the side with the model.

Nothing here can hold a secret key: `server.zip` has none, and the only key message it takes is the
evaluation keys, which are deserialized as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torusformer import ArtifactError
from torusformer.fhe_compile.circuit.backend import fhe
from torusformer.fhe_compile.circuit.circuit import ONLY
from torusformer.fhe_compile.deployment.archives import SERVER
from torusformer.fhe_compile.deployment.interface import Interface
from torusformer.serving.messages import decode, digest, pack, read_values, unpack

Agreed = TypeVar("Agreed", bound=Interface)


@dataclass(frozen=True, eq=False)
class EvaluationKeys:
    """A client's keys, read once, and what tells them from others."""

    key_id: str
    inner: Any


class Evaluator(Generic[Agreed]):
    """Runs the functions of one deployment on ciphertexts."""

    def __init__(self, kind: type[Agreed], folder: str | Path) -> None:
        self.interface = kind.load(Path(folder), SERVER)
        self._inner = fhe.Server.load(Path(folder) / SERVER)

    def load_keys(self, evaluation_keys: bytes) -> EvaluationKeys:
        """Evaluation keys to hand over several times: reading them takes seconds."""
        (part,) = unpack("evaluation keys", self.interface.circuit_id, evaluation_keys)
        inner = decode("evaluation keys", fhe.EvaluationKeys.deserialize, part)
        return EvaluationKeys(digest(evaluation_keys), inner)

    def _run(
        self, function: str, values: Mapping[str, fhe.Value], keys: EvaluationKeys
    ) -> dict[str, fhe.Value]:
        """All that a function gives, by name, of those values that it takes."""
        ports = self.interface.functions[function]
        arguments = [values[encoded.port.name] for encoded in ports.inputs]
        results = self._inner.run(*arguments, evaluation_keys=keys.inner, function_name=function)
        results = results if isinstance(results, tuple) else (results,)
        names = [encoded.port.name for encoded in ports.outputs]
        # Behind the outputs are, perhaps, inputs that nothing reads.
        return dict(zip(names, results, strict=False))


class Server(Evaluator[Interface]):
    """Runs one deployment's circuit on what clients send."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Interface, folder)

    def run(self, inputs: bytes, evaluation_keys: bytes | EvaluationKeys) -> bytes:
        """The circuit on a client's message; keys as bytes or from `load_keys`."""
        parts, ports = unpack("inputs", self.interface.circuit_id, inputs), self.interface.inputs
        if len(parts) != len(ports):
            raise ArtifactError(
                f"the message holds {len(parts)} inputs, the circuit takes {len(ports)}"
            )
        if isinstance(evaluation_keys, bytes):
            evaluation_keys = self.load_keys(evaluation_keys)
        names = [encoded.port.name for encoded in ports]
        values = dict(zip(names, read_values("inputs", parts), strict=True))
        given = self._run(ONLY, values, evaluation_keys)
        answer = [value.serialize() for value in given.values()]
        return pack("outputs", self.interface.circuit_id, answer)
