"""Inputs of several lengths in, answers of a deployment out: client and server of it, keys made.

One after the other on all cores, or shared among processes of one core each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torusformer.fhe_compile.deployment.lengths import LengthsInterface
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.pipelines.answers import Answer, Answerer, Integers
from torusformer.progress import Progress
from torusformer.serving import Client, LengthsClient, LengthsServer, Server, Workers


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
        with Progress("make keys"):
            client.keygen()
            message = client.evaluation_keys()
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
        with Progress("make keys"):
            client.keygen()
            self._keys = client.evaluation_keys()
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
        (kind, folder, trust), sent, answers = self._of_server, list[int](), list[TextAnswer]()
        jobs = max(1, min(self.jobs, len(asked)))

        def requests() -> Iterator[bytes]:
            for length, q_x in asked:
                message = self._encrypted(length, q_x)
                sent.append(len(message))
                yield message

        with ExitStack() as stack:
            with Progress(f"start {jobs} workers"):
                workers = Workers(folder, self._keys, jobs, trust, kind=kind)
                stack.enter_context(workers)
            progress = stack.enter_context(Progress(label, total=len(asked)))
            start = time.monotonic()
            for i, reply in enumerate(workers.run(requests())):
                length, answerer = asked[i][0], self.of_length(asked[i][0])
                q_y = {answerer.outputs[0].name: self._decrypted(reply.message)}
                answer, received = answerer.meant(q_y, reply.seconds), len(reply.message)
                answers.append(TextAnswer(pieces[i], length, answer, sent[i], received))
                progress.advance()
            return answers, time.monotonic() - start

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
