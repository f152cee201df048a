"""Both parties of one model compiled for several lengths: a request says which, and is as long.

>>> client, server = LengthsClient("deployment"), LengthsServer("deployment")  # doctest: +SKIP
>>> keys = server.load_keys(client.evaluation_keys())                          # doctest: +SKIP
>>> answer = server.run(client.encrypt([4, 17, 3, 0, 0, 0, 0, 0]), keys)       # doctest: +SKIP
>>> client.dequantize(client.decrypt(answer)).argmax()                         # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.deployment.lengths import LengthsInterface, length_name
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import check_array, dequantize_array, quantize_array
from torusformer.serving.client import KeyHolder
from torusformer.serving.messages import Kind, pack, read_head, unpack
from torusformer.serving.process import TIME_LIMIT
from torusformer.serving.server import Answering, Call


class LengthsClient(KeyHolder[LengthsInterface]):
    """Asks about tokens, as many as one of the lengths has."""

    def __init__(self, folder: str | Path, trust: str | Path | None = None) -> None:
        super().__init__(LengthsInterface, folder, trust)

    def encrypt(self, tokens: ArrayLike) -> bytes:
        """Ids (length,) or (1, length), padded by the caller, to a message for the server."""
        ids = np.asarray(tokens)
        length = ids.shape[-1] if ids.ndim else 0
        if length not in self.interface.lengths:
            raise InputError(
                f"{length} tokens are none of the lengths "
                f"{', '.join(map(str, self.interface.lengths))}; pad them to one"
            )
        port = self.interface.input_of(length)
        q_x = check_array(port, quantize_array(port, ids.reshape(port.real_shape)))
        return self.encrypt_integers(length, q_x)

    def encrypt_integers(self, length: int, q_x: IntArray) -> bytes:
        """As `encrypt`, of the program's integers."""
        name = self.interface.input_of(length).name
        parts = self._encrypted(length_name(length), {name: q_x})
        return _message("inputs", self.interface, length, parts)

    def decrypt(self, answer: bytes) -> IntArray:
        """The server's answer to program integers."""
        length, (value,) = _opened("outputs", self.interface, answer)
        name = self.interface.output_of(length).name
        return self._decrypted(length_name(length), {name: value})[name]

    def dequantize(self, q_y: IntArray) -> NDArray[np.float64]:
        """scale * (integer - zero_point), which is the same of all lengths' logits."""
        return dequantize_array(self.interface.output_of(self.interface.lengths[0]), q_y)


class LengthsServer(Answering[LengthsInterface]):
    """Runs the length that a request asks for."""

    def __init__(
        self,
        folder: str | Path,
        trust: str | Path | None = None,
        threads: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        super().__init__(LengthsInterface, folder, trust, threads, time_limit)

    def call(self, inputs: bytes) -> Call:
        """The function of a client's message on what it holds."""
        length, (value,) = _opened("inputs", self.interface, inputs)
        name = length_name(length)
        return Call(name, self._arguments(name, {self.interface.input_of(length).name: value}))

    def reply(self, function: str, results: Sequence[bytes]) -> bytes:
        """The message with the logits of a length."""
        length = next(n for n in self.interface.lengths if length_name(n) == function)
        given = self._named(function, results)[self.interface.output_of(length).name]
        return _message("outputs", self.interface, length, [given])


def _message(kind: Kind, interface: LengthsInterface, length: int, parts: list[bytes]) -> bytes:
    head = json.dumps({"length": length}).encode()
    return pack(kind, interface.circuit_id, [head, *parts])


def _opened(kind: Kind, interface: LengthsInterface, message: bytes) -> tuple[int, list[bytes]]:
    """Which length a message is of, and its one ciphertext."""
    parts = unpack(kind, interface.circuit_id, message)
    head, values = read_head(kind, parts, length=int)
    length: int = head["length"]
    if length not in interface.lengths or len(values) != 1:
        raise ArtifactError(
            f"the {kind} are {len(values)} ciphertexts of {length} tokens, one of "
            f"{', '.join(map(str, interface.lengths))} belongs there; send them again"
        )
    return length, values
