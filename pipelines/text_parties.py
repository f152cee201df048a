"""Inputs of several lengths in, answers of a deployment out: client and server of it, keys made.

One after the other on all cores, or shared among processes of one core each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torusformer.fhe_compile.deployment.lengths import LengthsInterface
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.pipelines.answers import Answer, Answerer, Integers, answer_shared, make_keys
from torusformer.serving import Client, LengthsClient, LengthsServer, Reply, Server, Workers


@dataclass(frozen=True, eq=False)
class TextAnswer:
    """The answer to a text: how many `pieces` it has, and of which `length` the circuit was.

    Bytes are those of the messages, None where nothing was encrypted.
    """

    pieces: int
    length: int
    answer: Answer
    request_bytes: int | None = None
    reply_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        data = {"pieces": self.pieces, "length": self.length, **self.answer.to_json()}
        if self.request_bytes is not None:
            data |= {"request_bytes": self.request_bytes, "reply_bytes": self.reply_bytes}
        return data


class Parties:
    """Client and server of one deployment of lengths, and the keys that all lengths take."""

    def __init__(self, client: LengthsClient, server: LengthsServer) -> None:
        self.client, self.server = client, server
        message = make_keys(client)
        self.key_bytes = len(message)
        self.keys = server.load_keys(message)


class DeployedLength(Answerer):
    """One length, asked encrypted, as `Deployed`."""

    def __init__(self, parties: Parties, length: int) -> None:
        interface = parties.client.interface
        ports = interface.input_of(length), interface.output_of(length)
        super().__init__(ports[:1], ports[1:], interface.metadata)
        self.parties, self.length, self.key_bytes = parties, length, parties.key_bytes
        self.request_bytes = self.reply_bytes = 0

    def call(self, q_x: Integers) -> Integers:
        """Encrypt, run on the server's side, decrypt."""
        (port,), (logits,) = self.inputs, self.outputs
        question = self.parties.client.encrypt_integers(self.length, q_x[port.name])
        reply = self.parties.server.run(question, self.parties.keys)
        self.request_bytes, self.reply_bytes = len(question), len(reply)
        return {logits.name: self.parties.client.decrypt(reply)}


class Shared:
    """Texts of a deployment, shared among `jobs` server processes of one core each."""

    def __init__(
        self,
        client: Client | LengthsClient,
        kind: type[Server] | type[LengthsServer],
        folder: Path,
        jobs: int,
        trust: Path | None,
    ) -> None:
        """Keys are made; a process starts where there is a text for it."""
        self.client, self.jobs = client, jobs
        self._of_server = (kind, folder, trust)
        self._keys = make_keys(client)
        self.key_bytes = len(self._keys)

    def of_length(self, length: int) -> Answerer:
        """The ports of a length, and what its integers mean."""
        interface = self.client.interface
        if isinstance(interface, LengthsInterface):
            ports = interface.input_of(length), interface.output_of(length)
        else:
            (taken,), (given,) = interface.inputs, interface.outputs
            ports = taken.port, given.port
        return Answerer(ports[:1], ports[1:], interface.metadata)

    def answer_all(
        self, asked: Sequence[tuple[int, Integers]], pieces: Sequence[int], label: str
    ) -> tuple[list[TextAnswer], float]:
        """Answers to inputs of their lengths; starting the processes is no part of the seconds."""
        (kind, folder, trust), jobs = self._of_server, max(1, min(self.jobs, len(asked)))
        sent = list[int]()

        def requests() -> Iterator[bytes]:
            for length, q_x in asked:
                message = self._encrypted(length, q_x)
                sent.append(len(message))
                yield message

        in_order = iter(range(len(asked)))

        def meant(reply: Reply) -> TextAnswer:
            i = next(in_order)
            length, answerer = asked[i][0], self.of_length(asked[i][0])
            q_y = {answerer.outputs[0].name: self._decrypted(reply.message)}
            answer = answerer.meant(q_y, reply.seconds)
            return TextAnswer(pieces[i], length, answer, sent[i], len(reply.message))

        workers = Workers(folder, self._keys, jobs, trust, kind=kind)
        return answer_shared(workers, requests(), len(asked), meant, label)

    def _encrypted(self, length: int, q_x: Integers) -> bytes:
        if isinstance(self.client, LengthsClient):
            (value,) = q_x.values()
            return self.client.encrypt_integers(length, value)
        return self.client.encrypt(q_x)

    def _decrypted(self, message: bytes) -> IntArray:
        if isinstance(self.client, LengthsClient):
            return self.client.decrypt(message)
        (value,) = self.client.decrypt(message).values()
        return value
