"""Ciphertexts and evaluation keys in, ciphertexts out: the side with the model.

Nothing here can hold a secret key: `server.zip` has none, and the only key message it takes is the
evaluation keys, which are read as such, and only by a process of their own that may die of them.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from torusformer import ArtifactError
from torusformer.fhe_compile.circuit.circuit import ONLY
from torusformer.fhe_compile.deployment.archives import LIBRARY, SERVER, read_archive
from torusformer.fhe_compile.deployment.interface import Interface
from torusformer.serving.declared import check_evaluation_keys, check_value
from torusformer.serving.messages import digest, pack, unpack
from torusformer.serving.process import TIME_LIMIT, Process

Agreed = TypeVar("Agreed", bound=Interface)


@dataclass(frozen=True, eq=False)
class EvaluationKeys:
    """A client's keys, read once, in a process of their own, and what tells them from others."""

    key_id: str
    process: Process

    def close(self) -> None:
        """End the process; without this, it ends with the last reference to the keys."""
        self.process.close()


class Evaluator(Generic[Agreed]):
    """Runs the functions of one deployment on ciphertexts.

    With `trust`, a public key, the deployment has to be signed with it. A request, or the reading
    of keys, that takes more than `time_limit` seconds ends in a WorkerError.
    """

    def __init__(
        self,
        kind: type[Agreed],
        folder: str | Path,
        trust: str | Path | None = None,
        threads: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self.folder, self._threads, self._time_limit = Path(folder), threads, time_limit
        self.interface = kind.load(self.folder, SERVER, None if trust is None else Path(trust))
        self._open: weakref.WeakSet[Process] = weakref.WeakSet()

    def load_keys(self, evaluation_keys: bytes) -> EvaluationKeys:
        """Evaluation keys to hand over several times: reading them takes seconds."""
        keys = self.start_keys(evaluation_keys)
        try:
            keys.process.receive()
        except BaseException:
            keys.close()
            raise
        return keys

    def start_keys(self, evaluation_keys: bytes, what: str = "") -> EvaluationKeys:
        """As `load_keys`, but its process is still to say (`receive`) that it has read them."""
        (part,) = self._one(unpack("evaluation keys", self.interface.keys_id, evaluation_keys))
        check_evaluation_keys(part, self.interface.specification.keyset)
        files = read_archive(self.folder / SERVER, self._circuit_id, *LIBRARY)
        key_id = digest(evaluation_keys)
        process = Process(
            what or f"the process with the keys {key_id[:12]}", self._threads, self._time_limit
        )
        self._open.add(process)
        process.load(files, part)
        return EvaluationKeys(key_id, process)

    def close(self) -> None:
        """End the processes of all keys that were loaded here."""
        for process in list(self._open):
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _circuit_id(self) -> str:
        return self.interface.circuit_id

    @staticmethod
    def _one(parts: list[bytes]) -> list[bytes]:
        if len(parts) != 1:
            raise ArtifactError(
                f"the message holds {len(parts)} sets of evaluation keys, not one; make it again"
            )
        return parts

    def _arguments(self, function: str, values: Mapping[str, bytes]) -> list[bytes]:
        """Serialized ciphertexts in the order in which a function takes them, each checked."""
        gates = self.interface.specification.functions[function].inputs
        names = [encoded.port.name for encoded in self.interface.functions[function].inputs]
        for name, gate in zip(names, gates, strict=True):
            check_value("inputs", values[name], gate)
        return [values[name] for name in names]

    def _named(self, function: str, results: Sequence[bytes]) -> dict[str, bytes]:
        """All that a function gave, by name."""
        names = [encoded.port.name for encoded in self.interface.functions[function].outputs]
        # Behind the outputs are, perhaps, inputs that nothing reads.
        return dict(zip(names, results, strict=False))

    def _run(
        self, function: str, values: Mapping[str, bytes], keys: EvaluationKeys
    ) -> dict[str, bytes]:
        """All that a function gives, by name, of those values that it takes."""
        return self._named(function, keys.process.ask(function, self._arguments(function, values)))


class Call(NamedTuple):
    """What a client's message asks for: a function, and its ciphertexts, each checked."""

    function: str
    arguments: list[bytes]


class Answering(Evaluator[Agreed]):
    """Answers one message with one."""

    @abstractmethod
    def call(self, inputs: bytes) -> Call:
        """What a client's message asks for."""

    @abstractmethod
    def reply(self, function: str, results: Sequence[bytes]) -> bytes:
        """The message with what the function gave."""

    def run(self, inputs: bytes, evaluation_keys: bytes | EvaluationKeys) -> bytes:
        """The answer to a client's message; keys as bytes or from `load_keys`."""
        call = self.call(inputs)
        if isinstance(evaluation_keys, EvaluationKeys):
            return self.reply(call.function, evaluation_keys.process.ask(*call))
        keys = self.load_keys(evaluation_keys)
        try:
            return self.reply(call.function, keys.process.ask(*call))
        finally:
            keys.close()


class Server(Answering[Interface]):
    """Runs one deployment's circuit on what clients send."""

    def __init__(
        self,
        folder: str | Path,
        trust: str | Path | None = None,
        threads: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        super().__init__(Interface, folder, trust, threads, time_limit)

    def call(self, inputs: bytes) -> Call:
        """The circuit on a client's message."""
        parts, ports = unpack("inputs", self._circuit_id, inputs), self.interface.inputs
        if len(parts) != len(ports):
            raise ArtifactError(
                f"the message holds {len(parts)} inputs, the circuit takes {len(ports)}"
            )
        names = [encoded.port.name for encoded in ports]
        return Call(ONLY, self._arguments(ONLY, dict(zip(names, parts, strict=True))))

    def reply(self, function: str, results: Sequence[bytes]) -> bytes:
        """The message with what the circuit gave."""
        return pack("outputs", self._circuit_id, [*self._named(function, results).values()])
