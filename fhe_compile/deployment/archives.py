"""A compiled module in, Concrete's two archives out, and their checks when they are read again."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

from torusformer import ArtifactError

CLIENT, SERVER = "client.zip", "server.zip"
_LINKER_PATH = re.compile(rb"(?<=\0)/[^\0]*concrete_python\.libs(?=\0)")


def save_archives(inner: Any, folder: Path) -> dict[str, str]:
    """Write Concrete's two archives; their checksums by name."""
    inner.client.save(folder / CLIENT)
    inner.server.save(folder / SERVER)
    _forget_this_machine(folder / SERVER)
    return {name: _sha256(folder / name) for name in (CLIENT, SERVER)}


def _forget_this_machine(archive: Path) -> None:
    """Blank where Concrete's linker noted its own folder; the process has that library loaded."""
    with zipfile.ZipFile(archive) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in contents.items():
            new.writestr(name, _LINKER_PATH.sub(lambda path: bytes(len(path[0])), data))


def check_archive(file: Path, expected: str) -> None:
    """ArtifactError unless it has this checksum and is compiled."""
    if not file.is_file():
        raise ArtifactError(
            f"{file.parent}: has no {file.name}; copy it from where it was compiled"
        )
    if _sha256(file) != expected or not zipfile.is_zipfile(file):
        raise ArtifactError(
            f"{file}: truncated, or not the one that interface.json describes; copy it again"
        )
    _refuse_source(file)


def _refuse_source(file: Path) -> None:
    """Concrete would compile a circuit's source with a pickled configuration; ours are compiled."""
    with zipfile.ZipFile(file) as archive:
        if {"circuit.mlir", "configuration.json"} & set(archive.namelist()):
            raise ArtifactError(f"{file}: holds a circuit's source; compile the program again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
