"""The process that may die: evaluation keys and ciphertexts in, ciphertexts out, all of them bytes.

A script of its own, which `process.py` starts with one end of a socket: it imports Concrete's
compiler and nothing of ours, so that it starts in a third of a second and holds 100 MiB. First come
the circuit's files and the evaluation keys, then for each request a function's name and its inputs.
An answer is a byte that says whether there is one, and the outputs or what went wrong.
"""

from __future__ import annotations

import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from concrete.compiler import Library, ServerKeyset, ServerProgram, TransportValue

_COUNT = 4  # bytes of the number of pieces of a message
DONE, REFUSED = b"d", b"r"


def send_pieces(pipe: Connection, pieces: Sequence[bytes]) -> None:
    """A message of several byte strings, none of them copied."""
    pipe.send_bytes(len(pieces).to_bytes(_COUNT, "little"))
    for piece in pieces:
        pipe.send_bytes(piece)


def receive_pieces(pipe: Connection) -> list[bytes]:
    """Inverse of `send_pieces`; EOFError or OSError if nobody sends."""
    count = int.from_bytes(pipe.recv_bytes(_COUNT), "little")
    return [pipe.recv_bytes() for _ in range(count)]


class _State:
    """One circuit and one client's keys, once they are loaded."""

    def load(self, keys: bytes, *files: bytes) -> list[bytes]:
        """Keys, and names and contents of files by turns, which do not stay on the disk."""
        with tempfile.TemporaryDirectory(prefix="torusformer.") as folder:  # mode 700
            for name, data in zip(files[::2], files[1::2], strict=True):
                (Path(folder) / name.decode()).write_bytes(data)
            self._program = ServerProgram(Library(folder), False)
        self._keys = ServerKeyset.deserialize(keys)
        return []

    def run(self, function: bytes, *inputs: bytes) -> list[bytes]:
        """All outputs of a function."""
        values = [TransportValue.deserialize(value) for value in inputs]
        circuit = self._program.get_server_circuit(function.decode())
        return [value.serialize() for value in circuit.call(values, self._keys)]


def _answer(pipe: Connection, work: Callable[..., list[bytes]], *given: Any) -> None:
    try:
        answer = [DONE, *work(*given)]
    except (RuntimeError, ValueError, MemoryError, OSError) as error:  # of Concrete, or a full disk
        answer = [REFUSED, f"{type(error).__name__}: {error}".encode()]
    send_pieces(pipe, answer)


def main(descriptor: int) -> None:
    """Answer until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys and requests are not for the disk
    pipe, state = Connection(descriptor), _State()
    try:
        _answer(pipe, state.load, *receive_pieces(pipe))
        while True:
            _answer(pipe, state.run, *receive_pieces(pipe))
    except (EOFError, OSError):  # the parent is done, or gone, within a message too
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
