"""Byte strings in, one message out, and back: what passes between client and server.

A message is `magic, kind, circuit id, number of parts, their lengths, the parts, sha256`. The
digest is against truncation and mix-ups, not against an attacker.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torusformer import ArtifactError

MAGIC = b"torusformer message 1\n"
Kind = Literal["inputs", "evaluation keys", "outputs", "prompt", "cache"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_HEAD = struct.Struct("<B32sI")  # kind, circuit id, number of parts
_LENGTH = struct.Struct("<Q")
_DIGEST = 32
_HEAD_LIMIT = 1 << 20  # bytes of the JSON that describes the other parts


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
    if found >= len(KINDS):
        raise ArtifactError(
            f"the message is of kind {found}, this release knows {len(KINDS)}; install the release "
            f"it was made with"
        )
    if KINDS[found] != kind:
        raise ArtifactError(f"got {KINDS[found]} where {kind} belong")
    if made_for.hex() != circuit_id:
        raise ArtifactError(
            f"the {kind} are of another circuit ({made_for.hex()[:12]}, here {circuit_id[:12]}); "
            f"give client and server the same deployment"
        )
    return [bytes(view[a:b]) for a, b in _places(kind, view[:-_DIGEST], start, count)]


def _places(kind: Kind, view: memoryview, start: int, count: int) -> list[tuple[int, int]]:
    """Where each part begins and ends; together they have to fill the message."""
    at = start + count * _LENGTH.size
    if at > len(view):
        raise ArtifactError(
            f"the {kind} say that they have {count} parts and end before their lengths; send them "
            f"again"
        )
    places = []
    for i in range(count):
        (length,) = _LENGTH.unpack_from(view, start + i * _LENGTH.size)
        if length > len(view) - at:
            raise ArtifactError(
                f"the {kind} say that part {i} has {length} bytes, {len(view) - at} are left; send "
                f"them again"
            )
        places.append((at, at + length))
        at += length
    if at != len(view):
        raise ArtifactError(
            f"the {kind} have {len(view) - at} bytes behind their last part; send them again"
        )
    return places


def digest(message: bytes) -> str:
    """Of a whole message: tells the evaluation keys of one client from another's."""
    return message[-_DIGEST:].hex()


def read_head(
    what: Kind, parts: Sequence[bytes], **types: type
) -> tuple[dict[str, Any], list[bytes]]:
    """The first part, which says in JSON what the others are, by name; and the others."""
    if not parts or len(parts[0]) > _HEAD_LIMIT:
        raise ArtifactError(f"the {what} have no readable head; send them again")
    try:
        head = json.loads(parts[0])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the {what} have no readable head; send them again") from error
    if not isinstance(head, dict):
        raise ArtifactError(f"the {what} have no readable head; send them again")
    for name, wanted in types.items():
        # `type` and not `isinstance`: True is no number of tokens.
        if type(head.get(name)) is not wanted or (wanted is int and not 0 <= head[name] < 2**31):
            raise ArtifactError(
                f"the {what} have no readable head: its {name!r} is no {wanted.__name__} that can "
                f"be; send them again"
            )
    return {name: head[name] for name in types}, list(parts[1:])
