"""Bytes of a Cap'n Proto message in, its structs and lists out, all bounds checked.

Concrete serializes keys and ciphertexts with it. What is read here is a few hundred bytes that say
what the gigabytes beside them are: nothing is copied, and a pointer that leads out of the message,
or into itself without end, is a `MessageError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_WORD = 8
_SEGMENTS = 512  # that a message may have, as in Cap'n Proto itself
_READS = 100_000  # pointers that are followed, of one message
# Bytes of an element of a list, by its code; 1 is a bit, 6 a pointer, 7 a struct.
_ELEMENTS = {0: 0, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8}
_POINTERS, _STRUCTS = 6, 7


class MessageError(ValueError):
    """Bytes that are no Cap'n Proto message, or not the one expected."""


class Message:
    """A whole message: a table of segments, and the segments."""

    def __init__(self, data: bytes) -> None:
        view = memoryview(data)
        if len(view) < _WORD:
            raise MessageError("it is too short")
        (last,) = struct.unpack_from("<I", view)
        if last >= _SEGMENTS:
            raise MessageError("it has too many segments")
        words = struct.unpack_from(f"<{last + 1}I", view, 4) if len(view) >= 8 + 4 * last else ()
        at = (4 + 4 * (last + 1) + _WORD - 1) // _WORD * _WORD
        if not words or at + _WORD * sum(words) != len(view):
            raise MessageError("its segments are not as long as they say")
        self._segments = []
        for count in words:
            self._segments.append(view[at : at + _WORD * count])
            at += _WORD * count
        self._left = _READS

    @property
    def root(self) -> Struct:
        """What the message is."""
        return self._target(0, 0).struct()

    def bytes_at(self, segment: int, at: int, count: int) -> memoryview:
        """A piece of a segment, all of which has to be there."""
        if segment >= len(self._segments) or at < 0 or at + count > len(self._segments[segment]):
            raise MessageError("it points out of itself")
        return self._segments[segment][at : at + count]

    def _word(self, segment: int, at: int) -> int:
        return int.from_bytes(self.bytes_at(segment, at, _WORD), "little")

    def _target(self, segment: int, at: int) -> _Target:
        """What a pointer points at; a far one names the segment of another pointer."""
        self._left -= 1
        if self._left < 0:
            raise MessageError("it has too many pointers")
        pointer = self._word(segment, at)
        if pointer & 3 != 2:
            return _Target(self, segment, at + _WORD + _offset(pointer), pointer)
        place, segment = _WORD * (pointer >> 3 & 0x1FFFFFFF), pointer >> 32
        landing = self._word(segment, place)
        if not pointer & 4:  # a pointer beside what it points at
            return _Target(self, segment, place + _WORD + _offset(landing), landing)
        tag = self._word(segment, place + _WORD)
        if landing & 7 != 2 or tag & 2:
            raise MessageError("it has a far pointer to none")
        return _Target(self, landing >> 32, _WORD * (landing >> 3 & 0x1FFFFFFF), tag)


def _offset(pointer: int) -> int:
    """Bytes from behind a pointer to its target: 30 bits, signed."""
    words = pointer >> 2 & 0x3FFFFFFF
    return _WORD * (words - (1 << 30) if words >> 29 else words)


@dataclass(frozen=True)
class _Target:
    message: Message
    segment: int
    at: int
    pointer: int

    def struct(self) -> Struct:
        if self.pointer == 0:
            return Struct(self.message, memoryview(b""), 0, 0, 0)
        if self.pointer & 3:
            raise MessageError("it has something else where a struct belongs")
        data, pointers = self.pointer >> 32 & 0xFFFF, self.pointer >> 48
        return _struct(self.message, self.segment, self.at, data, pointers)

    def elements(self) -> tuple[int, int]:
        """Code and count of a list."""
        if self.pointer == 0:
            return 0, 0
        if self.pointer & 3 != 1:
            raise MessageError("it has something else where a list belongs")
        return self.pointer >> 32 & 7, self.pointer >> 35

    def data(self, code: int) -> memoryview:
        """The elements of a list of plain numbers."""
        found, count = self.elements()
        if count and found != code:
            raise MessageError("it has a list of other elements")
        return self.message.bytes_at(self.segment, self.at, count * _ELEMENTS[code])


def _struct(message: Message, segment: int, at: int, data: int, pointers: int) -> Struct:
    message.bytes_at(segment, at, _WORD * (data + pointers))
    return Struct(
        message, message.bytes_at(segment, at, _WORD * data), segment, at + _WORD * data, pointers
    )


@dataclass(frozen=True)
class Struct:
    """Numbers by their place in bytes, and pointers by their index; what is not there is zero."""

    message: Message
    fields: memoryview
    segment: int
    at: int
    pointers: int

    def unsigned(self, at: int, size: int = 4) -> int:
        """A number of so many bytes."""
        return int.from_bytes(self.fields[at : at + size], "little")

    def real(self, at: int) -> float:
        """A number of eight bytes."""
        (found,) = struct.unpack("<d", bytes(self.fields[at : at + 8]).ljust(8, b"\0"))
        return float(found)

    def flag(self, bit: int) -> bool:
        """One bit."""
        return bool(self.unsigned(bit // 8, 1) >> bit % 8 & 1)

    def struct(self, index: int) -> Struct:
        """What a pointer points at; an empty one for none."""
        return self._target(index).struct()

    def structs(self, index: int, most: int) -> list[Struct]:
        """A list of at most so many."""
        target = self._target(index)
        code, count = target.elements()
        if count == 0:
            return []
        if code != _STRUCTS:
            raise MessageError("it has a list of other elements")
        message, segment, at = target.message, target.segment, target.at
        tag = int.from_bytes(message.bytes_at(segment, at, _WORD), "little")
        number, data, pointers = tag >> 2 & 0x3FFFFFFF, tag >> 32 & 0xFFFF, tag >> 48
        step = _WORD * (data + pointers)
        if tag & 3 or number > most or number * step != _WORD * count:
            raise MessageError(f"it has a list that is not of at most {most} structs")
        places = range(at + _WORD, at + _WORD + number * step, step) if step else ()
        return [_struct(message, segment, place, data, pointers) for place in places]

    def numbers(self, index: int) -> list[int]:
        """A list of numbers of four bytes."""
        found = self._target(index).data(4)
        return list(struct.unpack(f"<{len(found) // 4}I", found))

    def sizes(self, index: int, most: int) -> list[int]:
        """Bytes of each of at most so many blobs in a list."""
        target = self._target(index)
        code, count = target.elements()
        if count > most or (count and code != _POINTERS):
            raise MessageError(f"it has a list that is not of at most {most} blobs")
        message, segment, at = target.message, target.segment, target.at
        message.bytes_at(segment, at, _WORD * count)
        blobs = (message._target(segment, at + _WORD * i) for i in range(count))
        return [len(blob.data(2)) for blob in blobs]

    def _target(self, index: int) -> _Target:
        if index >= self.pointers:
            return _Target(self.message, 0, 0, 0)
        return self.message._target(self.segment, self.at + _WORD * index)
