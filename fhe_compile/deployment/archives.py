"""A compiled module in, Concrete's two archives out; an archive in, the bytes of its members out.

Concrete unpacks whatever an archive holds, compiles a circuit's source if there is one, and
unpickles the settings for that. So it never gets an archive: members are read here, by name, and it
is handed what a list allows.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torusformer import ArtifactError

CLIENT, SERVER = "client.zip", "server.zip"
SPECIFICATION = "client.specs.json"
LIBRARY = ("sharedlib.so", "program_info.concrete.params.json")  # what runs
# Every name that may occur, and the most bytes that may be under it.
MEMBERS: Mapping[str, Mapping[str, int]] = {
    CLIENT: {SPECIFICATION: 2**28},
    SERVER: {
        SPECIFICATION: 2**28,
        "is_simulated": 1,
        "composition_rules.json": 2**28,
        "compilation_feedback.json": 2**30,
        "program_info.concrete.params.json": 2**28,
        "sharedlib.so": 2**31,
        "staticlib.a": 2**31,
    },
}
_SOURCE = ("circuit.mlir", "configuration.json")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ARCHIVE_LIMIT = 2**31  # bytes of a file
_TOTAL = (10, 2**28)  # bytes unpacked: so many times the file, and so many more
_LINKER_PATH = re.compile(rb"(?<=\0)/[^\0]*concrete_python\.libs(?=\0)")


def save_archives(inner: Any, folder: Path) -> dict[str, str]:
    """Write Concrete's two archives; their checksums by name."""
    inner.client.save(folder / CLIENT)
    inner.server.save(folder / SERVER)
    _forget_this_machine(folder / SERVER)
    return {name: sha256((folder / name).read_bytes()) for name in (CLIENT, SERVER)}


def _forget_this_machine(archive: Path) -> None:
    """Blank where Concrete's linker noted its own folder; the process has that library loaded."""
    with zipfile.ZipFile(archive) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in contents.items():
            new.writestr(name, _LINKER_PATH.sub(lambda path: bytes(len(path[0])), data))


def read_archive(file: Path, expected: str, *wanted: str) -> dict[str, bytes]:
    """The wanted members of an archive that has this checksum and holds nothing it should not."""
    data = read_limited(file, _ARCHIVE_LIMIT)
    if sha256(data) != expected or not zipfile.is_zipfile(io.BytesIO(data)):
        raise ArtifactError(
            f"{file}: truncated, or not the one that interface.json describes; copy it again"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = archive.infolist()
            _check_members(file, listed, len(data))
            if missing := {*wanted} - {member.filename for member in listed}:
                raise ArtifactError(f"{file}: lacks {min(missing)}; compile the program again")
            return {name: _read(file, archive, name) for name in wanted}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError is zipfile's for an encrypted member.
        raise ArtifactError(f"{file}: not an archive of ours ({error}); copy it again") from error


def read_limited(file: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes."""
    try:
        size = file.stat().st_size
        if not file.is_file() or size > limit:
            raise ArtifactError(
                f"{file}: has {size} bytes, at most {limit} are read; compile the program again"
            )
        return file.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{file.parent}: has no {file.name}; copy it from where it was compiled"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read ({error.strerror}); copy it again") from error


def _check_members(file: Path, listed: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse names that are not on the list, or twice, and what would be too much or no file."""
    allowed = MEMBERS[file.name]
    seen: set[str] = set()
    for member in listed:
        name = member.filename
        if Path(name).name in _SOURCE:
            raise ArtifactError(f"{file}: holds a circuit's source; compile the program again")
        if name not in allowed or member.orig_filename != name:
            raise ArtifactError(
                f"{file}: holds {member.orig_filename[:80]!r}, which no deployment has; get the "
                f"archive from where it was compiled"
            )
        if name in seen:
            raise ArtifactError(
                f"{file}: holds {name!r} twice; get the archive from where it was compiled"
            )
        seen.add(name)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or member.compress_type not in _METHODS:
            raise ArtifactError(
                f"{file}: {name!r} is not a plain file, stored or deflated; get the archive from "
                f"where it was compiled"
            )
        if member.file_size > allowed[name]:
            raise ArtifactError(
                f"{file}: {name!r} unpacks to {member.file_size} bytes, the limit is "
                f"{allowed[name]}; get the archive from where it was compiled"
            )
    total, limit = sum(member.file_size for member in listed), _TOTAL[0] * size + _TOTAL[1]
    if total > limit:
        raise ArtifactError(
            f"{file}: unpacks to {total} bytes, the limit for its size is {limit}; get the archive "
            f"from where it was compiled"
        )


def _read(file: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A member whole, and no more than the directory of the archive says that it has."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as member:
        data = member.read(size + 1)  # a checksum is compared at the end
    if len(data) != size:
        raise ArtifactError(f"{file}: {name!r} has not {size} bytes; copy it again")
    return data


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
