"""A compiled circuit in, a folder for client and server out, and back to what each side needs.

| file | for | holds |
|---|---|---|
| `client.zip` | client | Concrete's client specification: parameters of keys and ciphertexts |
| `server.zip` | server | the compiled circuit; its tables and weights are the model |
| `interface.json` | both | ports (shape, bounds, scale, base, ...), labels, p_error, checksums |
| `versions.json` | both | the releases that made it |

No file holds a secret key: the client makes its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from torusformer import ArtifactError
from torusformer.fhe_compile.program.port_json import port_from_json, port_to_json
from torusformer.fhe_compile.tfhe.steps import EncodedPort
from torusformer.folders import output_folder
from torusformer.versions import check_versions, read_versions

if TYPE_CHECKING:
    from torusformer.fhe_compile.circuit.circuit import Circuit

T = TypeVar("T")
FORMAT = "torusformer-deployment"
FORMAT_VERSION = 1
_LINKER_PATH = re.compile(rb"(?<=\0)/[^\0]*concrete_python\.libs(?=\0)")
BOUND_TO = ("torusformer", "concrete-python")  # another release may lay ciphertexts out otherwise


@dataclass(frozen=True, eq=False)
class Interface:
    """What client and server agree on. `circuit_id` names the compiled circuit.

    `p_error` is the chance that one of its bootstraps fails.
    """

    inputs: tuple[EncodedPort, ...]
    outputs: tuple[EncodedPort, ...]
    metadata: Mapping[str, str]
    circuit_id: str
    p_error: float


def save_deployment(circuit: Circuit, folder: str | Path) -> None:
    """Write the four files; all of them or, on an error, nothing."""
    with output_folder(folder, "deployment") as new:
        interface = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "inputs": [encoded_to_json(port) for port in circuit.encoding.inputs],
            "outputs": [encoded_to_json(port) for port in circuit.encoding.outputs],
            "metadata": dict(circuit.program.metadata),
            "p_error": circuit.plan.p_error,
            "sha256": save_archives(circuit.inner, new),
        }
        (new / "interface.json").write_text(json.dumps(interface) + "\n")


def save_archives(inner: Any, folder: Path) -> dict[str, str]:
    """Write Concrete's two archives; their checksums by name."""
    inner.client.save(folder / "client.zip")
    inner.server.save(folder / "server.zip")
    _forget_this_machine(folder / "server.zip")
    return {name: _sha256(folder / name) for name in ("client.zip", "server.zip")}


def _forget_this_machine(archive: Path) -> None:
    """Blank where Concrete's linker noted its own folder; the process has that library loaded."""
    with zipfile.ZipFile(archive) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in contents.items():
            new.writestr(name, _LINKER_PATH.sub(lambda path: bytes(len(path[0])), data))


def load_interface(folder: Path, archive: str) -> Interface:
    """Read the interface and check `archive` ("client.zip" or "server.zip") against it."""
    return read_interface(folder, "deployment", (FORMAT, FORMAT_VERSION), archive, _interface)


def _interface(data: dict[str, Any]) -> Interface:
    return Interface(
        inputs=encoded_from_json(data["inputs"]),
        outputs=encoded_from_json(data["outputs"]),
        metadata=data["metadata"],
        circuit_id=data["sha256"]["server.zip"],
        p_error=float(data["p_error"]),
    )


def read_interface(
    folder: Path,
    artefact: str,
    known: tuple[str, int],
    archive: str,
    parse: Callable[[dict[str, Any]], T],
) -> T:
    """`parse` of a folder's interface.json, if it is of the `known` format and has the archive."""
    check_versions(read_versions(folder, artefact), BOUND_TO, str(folder))
    path = folder / "interface.json"
    data = _read_json(path)
    try:
        if (data["format"], data["format_version"]) != known:
            raise ArtifactError(
                f"{path}: is {data['format']} version {data['format_version']}, this release "
                f"reads {known[0]} version {known[1]}; compile the program again"
            )
        interface = parse(data)
        expected = data["sha256"][archive]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path}: lacks {error}; compile the program again") from error
    _check_archive(folder / archive, expected)
    return interface


def _check_archive(file: Path, expected: str) -> None:
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path.parent}: has no {path.name}; copy it from where it was compiled"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path}: truncated or not JSON; compile the program again") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: not an interface of ours; compile the program again")
    return data


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encoded_to_json(encoded: EncodedPort) -> dict[str, Any]:
    """A port and how it is encrypted, ready for JSON."""
    return {
        **port_to_json(encoded.port),
        "base": _smallest(encoded.base),
        "bits": encoded.bits,
        "shift": encoded.shift,
    }


def _smallest(base: np.ndarray) -> object:
    base = np.asarray(base)
    same = base.size > 0 and bool((base == base.flat[0]).all())
    return int(base.flat[0]) if same else base.tolist()


def encoded_from_json(ports: list[dict[str, Any]]) -> tuple[EncodedPort, ...]:
    """Inverse of `encoded_to_json`, of all inputs or outputs in order."""
    return tuple(
        EncodedPort(
            port_from_json(data),
            index,
            np.asarray(data["base"], dtype=np.int64),
            int(data["bits"]),
            int(data["shift"]),
        )
        for index, data in enumerate(ports)
    )
