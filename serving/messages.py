"""Byte strings in, one message out, and back: what passes between client and server.

A message is `magic, kind, circuit id, number of parts, their lengths, the parts, sha256`. The
digest is against truncation and mix-ups, not against an attacker.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args

from torusformer import ArtifactError
from torusformer.fhe_compile.circuit.backend import fhe

MAGIC = b"torusformer message 1\n"
T = TypeVar("T")
Kind = Literal["inputs", "evaluation keys", "outputs", "prompt", "cache"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_HEAD = struct.Struct("<B32sI")  # kind, circuit id, number of parts
_LENGTH = struct.Struct("<Q")
_DIGEST = 32


def pack(kind: Kind, circuit_id: str, parts: Sequence[bytes]) -> bytes:
    """One message of several byte strings."""
    head = _HEAD.pack(KINDS.index(kind), bytes.fromhex(circuit_id), len(parts))
    pieces = [MAGIC, head, *(_LENGTH.pack(len(part)) for part in parts), *parts]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return b"".join([*pieces, digest.digest()])  # one copy: evaluation keys are gigabytes


def unpack(kind: Kind, circuit_id: str, message: bytes) -> list[bytes]:
    """The byte strings of a message, which has to be of this kind and for this circuit."""
    if not message.startswith(MAGIC):
        raise ArtifactError(f"not a torusformer message; expected {kind}")
    view = memoryview(message)
    start = len(MAGIC) + _HEAD.size
    if len(message) < start + _DIGEST or (
        hashlib.sha256(view[:-_DIGEST]).digest() != message[-_DIGEST:]
    ):
        raise ArtifactError(f"the {kind} arrived truncated or damaged; send them again")
    found, made_for, count = _HEAD.unpack_from(message, len(MAGIC))
    if KINDS[found] != kind:
        raise ArtifactError(f"got {KINDS[found]} where {kind} belong")
    if made_for.hex() != circuit_id:
        raise ArtifactError(
            f"the {kind} are of another circuit ({made_for.hex()[:12]}, here {circuit_id[:12]}); "
            f"give client and server the same deployment"
        )
    parts = []
    at = start + count * _LENGTH.size
    for i in range(count):
        (length,) = _LENGTH.unpack_from(message, start + i * _LENGTH.size)
        parts.append(bytes(view[at : at + length]))
        at += length
    return parts


def digest(message: bytes) -> str:
    """Of a whole message: tells the evaluation keys of one client from another's."""
    return message[-_DIGEST:].hex()


def read_head(what: Kind, part: bytes, *names: str) -> dict[str, Any]:
    """The first part of a message that says in JSON what the others are."""
    try:
        head = json.loads(part)
        return {name: head[name] for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"the {what} have no readable head; send them again") from error


def read_values(what: Kind, parts: Sequence[bytes]) -> list[fhe.Value]:
    """The ciphertexts of a message's parts."""
    return [decode(what, fhe.Value.deserialize, part) for part in parts]


def decode(what: Kind, deserialize: Callable[[bytes], T], part: bytes) -> T:
    """`deserialize(part)`; Concrete answers bytes that are something else with a RuntimeError."""
    try:
        return deserialize(part)
    except RuntimeError as error:
        raise ArtifactError(f"the message holds something that is not {what}") from error
