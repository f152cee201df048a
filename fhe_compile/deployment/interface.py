"""What client and server agree on, and its JSON: the ports of every function, labels, p_error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from torusformer import ArtifactError
from torusformer.fhe_compile.circuit.circuit import ONLY
from torusformer.fhe_compile.deployment.archives import (
    LIBRARY,
    SERVER,
    SPECIFICATION,
    read_archive,
    read_limited,
)
from torusformer.fhe_compile.deployment.manifest import check_signed, signed_checksums
from torusformer.fhe_compile.deployment.ports import ports_from_json
from torusformer.fhe_compile.deployment.specification import Specification
from torusformer.fhe_compile.tfhe.encoding import EncodedPort
from torusformer.versions import check_versions, read_versions

FILE, FORMAT_VERSION = "interface.json", 1
_LIMIT = 2**28  # bytes of it
BOUND_TO = ("torusformer", "concrete-python")  # another release may lay ciphertexts out otherwise


@dataclass(frozen=True, eq=False)
class FunctionPorts:
    """Of one function, in the order in which Concrete takes them and gives them."""

    inputs: tuple[EncodedPort, ...]
    outputs: tuple[EncodedPort, ...]

    @property
    def by_name(self) -> dict[str, EncodedPort]:
        """Inputs and outputs, none of which are called alike."""
        return {encoded.port.name: encoded for encoded in (*self.inputs, *self.outputs)}


@dataclass(frozen=True, eq=False)
class Interface:
    """What client and server agree on. `circuit_id` names what was compiled.

    `p_error` is the chance that one of its bootstraps fails, `specification` Concrete's part of it.
    """

    ARTEFACT: ClassVar[str] = "deployment"
    FORMAT: ClassVar[str] = "torusformer-deployment"

    functions: Mapping[str, FunctionPorts]
    metadata: Mapping[str, str]
    circuit_id: str
    p_error: float
    specification: Specification
    keys_id: str  # names the keys: the `circuit_id` of the first circuit that took them

    @property
    def inputs(self) -> tuple[EncodedPort, ...]:
        """Of the one function of a circuit."""
        return self.functions[ONLY].inputs

    @property
    def outputs(self) -> tuple[EncodedPort, ...]:
        """Of the one function of a circuit."""
        return self.functions[ONLY].outputs

    @classmethod
    def load(cls, folder: Path, archive: str, trust: Path | None = None) -> Self:
        """Read a folder's interface; `archive`, one side's, has to be the one that it describes.

        With `trust`, a public key, both have to be those that were signed with it.
        """
        check_versions(read_versions(folder, cls.ARTEFACT), BOUND_TO, str(folder))
        path = folder / FILE
        text = read_limited(path, _LIMIT)
        signed = None if trust is None else signed_checksums(folder, trust)
        if signed is not None:
            check_signed(signed, path, text)
        data = _read_json(path, text)
        try:
            if (data["format"], data["format_version"]) != (cls.FORMAT, FORMAT_VERSION):
                raise ArtifactError(
                    f"{path}: is {data['format']!s:.40} version {data['format_version']!s:.9}, "
                    f"this release reads {cls.FORMAT} version {FORMAT_VERSION}; compile the "
                    f"program again"
                )
            specification = _specification(folder / archive, data["sha256"][archive], signed)
            interface = cls(
                _functions(cls.listed(data), specification),
                _texts(data["metadata"]),
                _checksum(data["sha256"][SERVER]),
                _probability(data["p_error"]),
                specification,
                _checksum(data.get("keys_of", data["sha256"][SERVER])),
            )
            interface.check()
        except KeyError as error:
            raise ArtifactError(f"{path}: lacks {error}; compile the program again") from error
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(
                f"{path}: not an interface of ours, it has {error}; compile the program again"
            ) from error
        return interface

    def check(self) -> None:
        """ValueError or KeyError where what was read belongs to no deployment of this kind."""
        self.functions[ONLY]

    @classmethod
    def listed(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Where in its JSON the ports of each function are: those of a circuit on the top level."""
        return {ONLY: data}


def _read_json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: truncated or not JSON; compile the program again") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: not an interface of ours; compile the program again")
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _specification(file: Path, expected: Any, signed: Mapping[str, str] | None) -> Specification:
    """Of an archive; a server's runs by a copy, which has to say the same."""
    wanted = (SPECIFICATION, LIBRARY[1]) if file.name == SERVER else (SPECIFICATION,)
    if signed is not None and expected != signed.get(file.name):
        raise ArtifactError(
            f"{file}: is not the one that the manifest was signed for; get the deployment from "
            f"whom you trust"
        )
    read = [
        Specification.from_json(data, str(file))
        for data in read_archive(file, _checksum(expected), *wanted).values()
    ]
    if any(other != read[0] for other in read):
        raise ArtifactError(
            f"{file}: says of its circuit two different things; compile the program again"
        )
    return read[0]


def _functions(listed: Any, specification: Specification) -> dict[str, FunctionPorts]:
    if not isinstance(listed, dict) or listed.keys() != specification.functions.keys():
        raise ValueError(f"functions other than {', '.join(specification.functions)[:80]}")
    return {
        name: FunctionPorts(*ports_from_json(ports, specification.functions[name], len(listed) > 1))
        for name, ports in listed.items()
    }


def _texts(data: Any) -> dict[str, str]:
    if not isinstance(data, dict) or not all(isinstance(text, str) for text in data.values()):
        raise TypeError("metadata that is not text")
    return data


def _checksum(data: Any) -> str:
    if not isinstance(data, str) or not re.fullmatch("[0-9a-f]{64}", data):
        raise ValueError("a checksum that is none")
    return data


def _probability(data: Any) -> float:
    if type(data) not in (int, float) or not 0 < data < 1:
        raise ValueError(f"p_error {str(data)[:40]}, which is no probability")
    return float(data)
