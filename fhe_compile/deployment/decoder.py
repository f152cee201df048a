"""A compiled decoder in, a folder for client and server out, and back to what each side needs.

The files are those of any deployment (`deployment.py`); `interface.json` lists ports by function.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torusformer.fhe_compile.decoding.closing import Window, window_of
from torusformer.fhe_compile.decoding.names import NEXT, step_name
from torusformer.fhe_compile.deployment.deployment import (
    encoded_from_json,
    encoded_to_json,
    read_interface,
    save_archives,
)
from torusformer.fhe_compile.program.nodes import Port
from torusformer.fhe_compile.tfhe.steps import EncodedPort
from torusformer.folders import output_folder

if TYPE_CHECKING:
    from torusformer.fhe_compile.circuit.circuit import Module

ARTEFACT = "decoder deployment"
FORMAT, FORMAT_VERSION = "torusformer-decoder-deployment", 1


@dataclass(frozen=True, eq=False)
class FunctionPorts:
    """Of one function, in the order in which Concrete takes them and gives them."""

    inputs: tuple[EncodedPort, ...]
    outputs: tuple[EncodedPort, ...]

    def output(self, name: str) -> EncodedPort:
        """By name."""
        return next(encoded for encoded in self.outputs if encoded.port.name == name)

    def input(self, name: str) -> EncodedPort:
        """By name."""
        return next(encoded for encoded in self.inputs if encoded.port.name == name)


@dataclass(frozen=True, eq=False)
class DecoderInterface:
    """What client and server of a decoder agree on. `circuit_id` names the compiled module."""

    functions: Mapping[str, FunctionPorts]
    metadata: Mapping[str, str]
    circuit_id: str
    p_error: float

    @property
    def context(self) -> int:
        """Tokens that the cache takes at most."""
        return sum(name.startswith("step") for name in self.functions)

    @property
    def labels(self) -> tuple[str, ...]:
        """The character of each token."""
        return tuple(json.loads(self.metadata["labels"]))

    @property
    def closed(self) -> bool:
        """Whether the server picks tokens."""
        return any(e.port.name == NEXT for e in self.functions[step_name(0)].outputs)

    @property
    def window(self) -> Window:
        """How the server reads logits, if it picks tokens."""
        return window_of(self.metadata)

    def port(self, function: str, name: str) -> Port:
        """An input of a function."""
        return self.functions[function].input(name).port


def save_decoder_deployment(
    module: Module, metadata: Mapping[str, str], p_error: float, folder: Path
) -> None:
    """Write the four files; all of them or, on an error, nothing."""
    with output_folder(folder, ARTEFACT) as new:
        interface = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "functions": {
                name: {
                    "inputs": [encoded_to_json(port) for port in function.encoding.inputs],
                    "outputs": [encoded_to_json(port) for port in function.encoding.outputs],
                }
                for name, function in module.functions.items()
            },
            "metadata": dict(metadata),
            "p_error": p_error,
            "sha256": save_archives(module.inner, new),
        }
        (new / "interface.json").write_text(json.dumps(interface) + "\n")


def load_decoder_interface(folder: Path, archive: str) -> DecoderInterface:
    """Read the interface and check `archive` ("client.zip" or "server.zip") against it."""
    return read_interface(folder, ARTEFACT, (FORMAT, FORMAT_VERSION), archive, _parse)


def _parse(data: dict[str, Any]) -> DecoderInterface:
    return DecoderInterface(
        functions={
            name: FunctionPorts(
                encoded_from_json(ports["inputs"]), encoded_from_json(ports["outputs"])
            )
            for name, ports in data["functions"].items()
        },
        metadata=data["metadata"],
        circuit_id=data["sha256"]["server.zip"],
        p_error=float(data["p_error"]),
    )
