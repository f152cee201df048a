"""Deployments whose archives have other members, and whose interface says other things."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.case import Case
from tests.programs import classifier
from torusformer.fhe_compile import compile_program, save_deployment
from torusformer.fhe_compile.deployment.archives import LIBRARY, MEMBERS, SERVER, read_archive
from torusformer.fhe_compile.deployment.interface import Interface
from torusformer.serving import Client

_NAMES = (
    "./configuration.json",
    ".//circuit.mlir",
    "circuit.mlir",
    "../sharedlib.so",
    "/etc/passwd",
    "a/../client.specs.json",
    "client.specs.json/",
    "CLIENT.SPECS.JSON",
    "client.specs.json\0x",
    " ",
    "é" * 300,
)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**62, 2**64, 10**400, 0.5, 1e308, -0.0),
    *("", "x", "main", "0" * 64, [], [[]], [1], [1, [2]], {}, {"a": 1}),
    [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],
)


@cache
def _deployment() -> Path:
    """One that is right, for all cases of a process; it goes when the process does."""
    place = tempfile.TemporaryDirectory(prefix="fuzz.")
    _KEPT.append(place)
    save_deployment(compile_program(classifier()), Path(place.name) / "d")
    return Path(place.name) / "d"


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def make(seed: int, folder: Path) -> Case:
    """A changed copy, read as a client and as a server read theirs."""
    rng = np.random.default_rng(seed)
    copy = Path(shutil.copytree(_deployment(), folder / "d"))
    archive = ("client.zip", SERVER)[rng.integers(2)]
    if rng.integers(3):
        about = _change_json(copy, rng, _interface)
    elif rng.integers(2):
        about = _change_json(copy, rng, _specification)
    else:
        about = f"{archive}: {_change_archive(copy / archive, rng)}"
        _note_checksum(copy, archive)

    def run() -> None:
        interface = Interface.load(copy, archive)
        if archive == SERVER:
            read_archive(copy / SERVER, interface.circuit_id, *LIBRARY)
        else:
            Client(copy)
        assert {p.name for p in copy.iterdir()} <= {*MEMBERS, "interface.json", "versions.json"}

    return Case(about, run)


def _change_archive(file: Path, rng: np.random.Generator) -> str:
    with zipfile.ZipFile(file) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    name, choice = _NAMES[rng.integers(len(_NAMES))], int(rng.integers(7))
    data = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as new:
        warnings.simplefilter("ignore")  # of a name twice
        for i, (old_name, content) in enumerate(members):
            renamed = name if choice == 0 and i == 0 else old_name
            info = zipfile.ZipInfo(renamed)
            if choice == 1 and i == 0:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            if choice == 2 and i == 0:
                content = bytes(300 * 2**20)
            new.writestr(info, content, zipfile.ZIP_DEFLATED)
        if choice == 3:
            new.writestr(members[0][0], b"again")
        if choice == 4:
            new.writestr(name, b"more")
    packed = bytearray(data.getvalue())
    if choice == 5:
        packed = packed[: int(rng.integers(len(packed)))]
    if choice == 6:
        for _ in range(int(rng.integers(1, 8))):
            packed[rng.integers(len(packed))] = int(rng.integers(256))
    file.write_bytes(packed)
    return f"change {choice} with {name!r}"


def _note_checksum(copy: Path, archive: str) -> None:
    data = json.loads((copy / "interface.json").read_text())
    data["sha256"][archive] = hashlib.sha256((copy / archive).read_bytes()).hexdigest()
    (copy / "interface.json").write_text(json.dumps(data))


def _interface(copy: Path, change: Callable[[Any], Any]) -> None:
    path = copy / "interface.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _specification(copy: Path, change: Callable[[Any], Any]) -> None:
    path = copy / "client.zip"
    with zipfile.ZipFile(path) as old:
        data = json.loads(old.read("client.specs.json"))
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("client.specs.json", json.dumps(change(data)))
    _note_checksum(copy, "client.zip")


def _change_json(
    copy: Path, rng: np.random.Generator, place: Callable[[Path, Callable[[Any], Any]], None]
) -> str:
    """One or two values replaced, dropped or doubled, anywhere."""
    said: list[str] = []

    def change(data: Any) -> Any:
        for _ in range(int(rng.integers(1, 3))):
            path, at = [], data
            while isinstance(at, dict | list) and at and (not path or rng.integers(6)):
                keys = list(at) if isinstance(at, dict) else range(len(at))
                path.append((at, keys[int(rng.integers(len(keys)))]))
                at = at[path[-1][1]]
            parent, key = path[-1]
            value = _VALUES[rng.integers(len(_VALUES))]
            if rng.integers(5) == 0:
                del parent[key]
            elif isinstance(parent, list) and rng.integers(3) == 0:
                parent.append(deepcopy(parent[key]))
            else:
                parent[key] = deepcopy(value)
            said.append("/".join(str(k) for _, k in path) + f" = {str(value)[:40]}")
        return data

    place(copy, change)
    return f"{place.__name__}: {'; '.join(said)}"
