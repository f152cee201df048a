"""What client and server agree on, and its JSON: the ports of every function, labels, p_error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from torusformer import ArtifactError
from torusformer.fhe_compile.circuit.circuit import ONLY
from torusformer.fhe_compile.deployment.archives import SERVER, check_archive
from torusformer.fhe_compile.program.port_json import port_from_json, port_to_json
from torusformer.fhe_compile.tfhe.encoding import EncodedPort
from torusformer.versions import check_versions, read_versions

FILE, FORMAT_VERSION = "interface.json", 1
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

    `p_error` is the chance that one of its bootstraps fails.
    """

    ARTEFACT: ClassVar[str] = "deployment"
    FORMAT: ClassVar[str] = "torusformer-deployment"

    functions: Mapping[str, FunctionPorts]
    metadata: Mapping[str, str]
    circuit_id: str
    p_error: float

    @property
    def inputs(self) -> tuple[EncodedPort, ...]:
        """Of the one function of a circuit."""
        return self.functions[ONLY].inputs

    @property
    def outputs(self) -> tuple[EncodedPort, ...]:
        """Of the one function of a circuit."""
        return self.functions[ONLY].outputs

    @classmethod
    def load(cls, folder: Path, archive: str) -> Self:
        """Read a folder's interface; `archive`, one side's, has to be the one that it describes."""
        check_versions(read_versions(folder, cls.ARTEFACT), BOUND_TO, str(folder))
        path = folder / FILE
        data = _read_json(path)
        try:
            if (data["format"], data["format_version"]) != (cls.FORMAT, FORMAT_VERSION):
                raise ArtifactError(
                    f"{path}: is {data['format']} version {data['format_version']}, this release "
                    f"reads {cls.FORMAT} version {FORMAT_VERSION}; compile the program again"
                )
            interface = cls(
                {name: _ports_from_json(ports) for name, ports in cls.listed(data).items()},
                data["metadata"],
                data["sha256"][SERVER],
                float(data["p_error"]),
            )
            expected = data["sha256"][archive]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{path}: lacks {error}; compile the program again") from error
        check_archive(folder / archive, expected)
        return interface

    @classmethod
    def listed(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Where in its JSON the ports of each function are: those of a circuit on the top level."""
        return {ONLY: data}


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


def ports_to_json(
    inputs: Sequence[EncodedPort], outputs: Sequence[EncodedPort]
) -> dict[str, list[dict[str, Any]]]:
    """Ports of one function and how each is encrypted, ready for JSON."""
    return {"inputs": [*map(_to_json, inputs)], "outputs": [*map(_to_json, outputs)]}


def _to_json(encoded: EncodedPort) -> dict[str, Any]:
    return {
        **port_to_json(encoded.port),
        "base": _smallest(encoded.base),
        "bits": encoded.bits,
        "shift": encoded.shift,
        "parts": encoded.parts,
    }


def _smallest(base: np.ndarray) -> object:
    base = np.asarray(base)
    same = base.size > 0 and bool((base == base.flat[0]).all())
    return int(base.flat[0]) if same else base.tolist()


def _ports_from_json(data: Mapping[str, Any]) -> FunctionPorts:
    return FunctionPorts(
        *(
            tuple(_from_json(i, port) for i, port in enumerate(data[side]))
            for side in ("inputs", "outputs")
        )
    )


def _from_json(index: int, data: dict[str, Any]) -> EncodedPort:
    base = np.asarray(data["base"], dtype=np.int64)
    return EncodedPort(
        port_from_json(data),
        index,
        base,
        int(data["bits"]),
        int(data["shift"]),
        parts=int(data["parts"]),
    )
