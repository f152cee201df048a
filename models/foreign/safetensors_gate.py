"""A safetensors file in, what its header declares out, checked before anything is allocated.

The format: eight bytes, little-endian, that count those of a JSON header; the header, which gives
each tensor a dtype, a shape and where its bytes begin and end; then all bytes without a gap.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torusformer import ArtifactError
from torusformer.strict_json import MAX_BYTES, parse_json

SIZES: Mapping[str, int] = {  # bytes an element
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1,
}  # fmt: skip
MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Declared:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def declared_tensors(path: Path) -> dict[str, Declared]:
    """Names, dtypes and shapes of a file whose header is true of its bytes.

    Raises:
        ArtifactError: the file is truncated, or the header names too much, too little, or twice.
    """
    try:
        return _declared(path)
    except ValueError as error:
        raise ArtifactError(f"{path} is no whole safetensors file: {error}; get it again") from None


def _declared(path: Path) -> dict[str, Declared]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"its header should take {length:,} bytes of {max(0, size - 8):,}")
        if length > MAX_BYTES:
            raise ValueError(f"its header takes {length:,} bytes, the limit is {MAX_BYTES:,}")
        header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    places: list[tuple[int, int, str]] = []
    found = {}
    for name, entry in header.items():
        found[name], (begin, end) = _entry(name, entry)
        places.append((begin, end, name))
    expected = 0
    for begin, end, name in sorted(places):
        if begin != expected:
            raise ValueError(f"the bytes of {name[:80]!r} overlap others or leave a gap")
        expected = end
    if expected != size - 8 - length:
        raise ValueError(f"it holds {size - 8 - length:,} bytes of tensors, not {expected:,}")
    return found


def _entry(name: str, entry: Any) -> tuple[Declared, tuple[int, int]]:
    short = repr(name[:80])
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{short} lacks dtype, shape or data_offsets, or says more")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ValueError(f"{short} is of dtype {str(dtype)[:20]}; known are {', '.join(SIZES)}")
    if not _whole_numbers(shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"{short} has a shape that is none")
    if not _whole_numbers(place) or len(place) != 2 or place[0] > place[1]:
        raise ValueError(f"{short} has data_offsets that are none")
    if math.prod(shape) * SIZES[dtype] != place[1] - place[0]:
        raise ValueError(f"{short} has {place[1] - place[0]:,} bytes, which its shape does not fit")
    return Declared(dtype, tuple(shape)), (place[0], place[1])


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)
