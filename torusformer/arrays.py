"""A .npy or .npz file in, its arrays out: every size that it declares is checked before it is used.

Nothing is unpickled. What a header says is compared with the bytes that are there, and what an
archive unpacks to is bounded by its own size, so a small file takes little memory whatever it says.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from torusformer.errors import InputError

NPY, ZIP = b"\x93NUMPY", b"PK"
MOST_RANK = 8
LONGEST_HEADER = 10_000
UNPACKED_BYTES = 64 * 2**20  # that an archive may unpack to, and four times its own size more
_NUMPY_PACKS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KEYS = {"descr", "fortran_order", "shape"}
_SHAPE = r"\(\s*(?:\d{1,19}L?\s*,\s*)*(?:\d{1,19}L?\s*)?\)"
_FIELD = re.compile(rf"\s*'(\w+)'\s*:\s*('[^']*'|True|False|{_SHAPE}|\[.*\])\s*(?:,\s*|$)", re.S)
_TYPE = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f2|f4|f8|f16|[SU]\d{1,6})")
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,  # also text that is not in the code it claims
    OverflowError,
    NotImplementedError,  # a compression, or a version of zip
    RuntimeError,  # a password
)


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of a file, of a .npz those of `names` that it has; that of a .npy is called "".

    Numbers are in the machine's byte order, texts are str.

    Raises:
        InputError: the file is neither, is damaged, declares more than it holds, or needs pickle.
    """
    with path.open("rb") as file:
        start = file.read(len(NPY))
        file.seek(0)
        if start == NPY:
            return {"": _array(file.read(), str(path))}
        if start[: len(ZIP)] == ZIP:
            return _archive(path, file, names)
    raise InputError(f"{path}: not a .npy or .npz file; write it with numpy.save or numpy.savez")


def _archive(path: Path, file: BinaryIO, names: Sequence[str] | None) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = [name for name in members if names is None or name in names]
            most = UNPACKED_BYTES + 4 * path.stat().st_size
            if sum(members[name].file_size for name in chosen) > most:
                raise InputError(
                    f"{path}: unpacks to more than {most >> 20} MiB, the limit for a file of its "
                    f"size; write it uncompressed, with numpy.savez"
                )
            if any(members[name].compress_type not in _NUMPY_PACKS for name in chosen):
                raise InputError(f"{path}: is packed in another way than numpy's; write it again")
            return {
                name: _array(archive.read(members[name]), f"{path}, array {name!r}")
                for name in chosen
            }
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{path}: not a readable .npz ({_first_line(error)}); write it again"
        ) from error


def _array(data: bytes, place: str) -> NDArray[Any]:
    """What the bytes of a .npy file hold."""
    text, body = _header(data, place)
    fields: dict[str, str] = {}
    inner, at = text.strip()[1:-1].strip(), 0
    while match := _FIELD.match(inner, at):
        fields[match[1]], at = match[2], match.end()
    if text.strip()[:1] != "{" or at != len(inner) or set(fields) != _KEYS:
        raise InputError(f"{place}: its header cannot be read; write it again with numpy")
    declared = fields["descr"].strip("'")
    if "O" in declared:
        raise InputError(
            f"{place}: holds Python objects, which only unpickling would read; give an array of "
            f"numbers"
        )
    if not _TYPE.fullmatch(declared):
        raise InputError(f"{place}: is of type {declared[:40]}; give numbers, or text as labels")
    dtype = np.dtype(declared)
    shape = tuple(int(n) for n in re.findall(r"\d+", fields["shape"]))
    if len(shape) > MOST_RANK:
        raise InputError(f"{place}: has {len(shape)} dimensions, the limit is {MOST_RANK}")
    count = 1
    for n in shape:  # exact: integers of Python do not wrap
        count *= n
    declared_bytes = count * dtype.itemsize
    if declared_bytes != len(data) - body:
        raise InputError(
            f"{place}: says shape {_shown(shape)} of {dtype}, {declared_bytes:,} bytes, and holds "
            f"{len(data) - body:,}; write it again"
        )
    if count == 0 or dtype.itemsize == 0:
        raise InputError(f"{place}: has shape {_shown(shape)}, it holds nothing; give samples")
    flat: NDArray[Any] = np.frombuffer(data, dtype, offset=body)
    order = "F" if fields["fortran_order"] == "True" else "C"
    return _native(flat, place).reshape(shape, order=order)  # type: ignore[call-overload]


def _header(data: bytes, place: str) -> tuple[str, int]:
    """The text of the header, and where the values begin."""
    wide = data[6:7] != b"\x01"  # version 1 has two bytes for the length, later ones four
    start = 12 if wide else 10
    if data[:6] != NPY or data[6:7] not in (b"\x01", b"\x02", b"\x03") or len(data) < start:
        raise InputError(f"{place}: not a .npy array; write it again with numpy")
    length = int.from_bytes(data[8:start], "little")
    if length > min(LONGEST_HEADER, len(data) - start):
        raise InputError(f"{place}: its header is truncated or too long; write it again with numpy")
    return data[start : start + length].decode("latin-1"), start + length


def _native(flat: NDArray[Any], place: str) -> NDArray[Any]:
    """The same values in the machine's byte order, booleans of zero and one, bytes as text."""
    if flat.dtype.kind == "b":
        return flat.view(np.uint8) != 0
    if flat.dtype.kind == "S":
        try:
            return np.char.decode(flat, "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{place}: holds text that is not UTF-8; write it again") from None
    native = flat.astype(flat.dtype.newbyteorder("="))
    if native.dtype.kind == "U":
        codes = native.view(np.uint32)
        if (codes > 0x10FFFF).any() or ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
            raise InputError(f"{place}: holds text that is not Unicode; write it again")
    return native


def _shown(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 80 else text[:77] + "..."


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
