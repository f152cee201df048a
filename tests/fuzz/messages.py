"""Messages with right digests whose kinds, counts, lengths, parts and heads are changed."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np

from tests.fuzz.case import Case
from torusformer.serving.cache import EncryptedCache
from torusformer.serving.capnp import Message, MessageError
from torusformer.serving.messages import KINDS, MAGIC, pack, read_head, unpack

_CIRCUIT = "ab" * 32
_HEADS = (
    b'{"key_id": "a", "position": 1, "names": ["key.0.0"], "token": true}',
    b'{"key_id": 1, "position": -1, "names": [[]], "token": 0}',
    b'{"key_id": "a", "position": 1e999, "names": {}, "token": NaN}',
    b"[" * 20_000,
    b'{"names":' * 20_000,
    b'{"position": ' + b"9" * 6_000 + b"}",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"",
)
_NUMBERS = (0, 1, 2, 5, 255, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def make(seed: int, folder: Path) -> Case:
    """A message of random parts, changed where it says what it is, and who reads it."""
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    parts = [_HEADS[rng.integers(len(_HEADS))]]
    parts += [bytes(rng.bytes(int(rng.integers(64)))) for _ in range(int(rng.integers(4)))]
    message = bytearray(pack(kind, _CIRCUIT, parts))
    for _ in range(int(rng.integers(4))):
        _change(message, len(parts), rng)
    if rng.integers(8):  # and without, one in eight: only the digest is wrong
        message[-32:] = hashlib.sha256(message[:-32]).digest()
    data = bytes(message)
    if rng.integers(4) == 0:
        about, said = "capnp", _capnp(rng)
        return Case(f"{about} {said.hex()}", lambda: _read_capnp(said))
    if rng.integers(2):
        return Case(
            f"cache {data.hex()[:2000]}", lambda: _drop(EncryptedCache.from_bytes(data, _CIRCUIT))
        )
    return Case(
        f"{kind} {data.hex()[:2000]}",
        lambda: _drop(read_head(kind, unpack(kind, _CIRCUIT, data), position=int, names=list)),
    )


def _change(message: bytearray, parts: int, rng: np.random.Generator) -> None:
    start, choice = len(MAGIC), int(rng.integers(5))
    if len(message) < start + 37 + 32:  # cut before
        return
    number = _NUMBERS[rng.integers(len(_NUMBERS))]
    if choice == 0:
        message[start] = number & 0xFF
    elif choice == 1:
        struct.pack_into("<I", message, start + 33, number & 0xFFFFFFFF)
    elif choice == 2:
        at = start + 37 + 8 * int(rng.integers(parts))
        if at + 8 <= len(message) - 32:
            struct.pack_into("<Q", message, at, number)
    elif choice == 3:
        message[int(rng.integers(len(message)))] ^= 1 << int(rng.integers(8))
    else:
        del message[int(rng.integers(len(message) - 32)) : -32]


def _capnp(rng: np.random.Generator) -> bytes:
    """Words that are likely pointers: far, near, into themselves, out of the message."""
    words = [int(rng.integers(2**8)) << 2 | int(rng.integers(4)) for _ in range(16)]
    words = [w | int(rng.integers(4)) << 32 | int(rng.integers(3)) << 48 for w in words]
    cut = int(rng.integers(17))
    head = struct.pack("<4I", 1, cut, 16 - cut, 0) if rng.integers(2) else struct.pack("<2I", 0, 16)
    return head + struct.pack("<16Q", *words)


def _read_capnp(data: bytes) -> None:
    """To the depth at which keys and ciphertexts are read; MessageError is what may come."""
    try:
        root = Message(data).root
        for i in range(4):
            for inner in (root.struct(i), *root.structs(i, 8)):
                inner.struct(0).struct(0).numbers(0)
                inner.struct(1).sizes(0, 8)
                inner.struct(0).real(8)
    except MessageError:
        return


def _drop(_: object) -> None:
    """Reading it was the test."""
