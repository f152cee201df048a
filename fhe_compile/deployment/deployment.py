"""A compiled circuit or decoder in, a folder for client and server out.

| file | for | holds |
|---|---|---|
| `client.zip` | client | Concrete's client specification: parameters of keys and ciphertexts |
| `server.zip` | server | the compiled circuit; its tables and weights are the model |
| `interface.json` | both | ports (shape, bounds, scale, base, ...), labels, p_error, checksums |
| `versions.json` | both | the releases that made it |
| `manifest.json`, `manifest.sig` | both | checksums of the first three, signed |

No file holds a secret key: the client makes its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torusformer.fhe_compile.circuit.circuit import Circuit, Module
from torusformer.fhe_compile.deployment.archives import CLIENT, SERVER, save_archives
from torusformer.fhe_compile.deployment.decoder import DecoderInterface
from torusformer.fhe_compile.deployment.interface import (
    FILE,
    FORMAT_VERSION,
    Interface,
)
from torusformer.fhe_compile.deployment.lengths import LengthsInterface
from torusformer.fhe_compile.deployment.manifest import read_private_key, sign
from torusformer.fhe_compile.deployment.ports import ports_to_json
from torusformer.fhe_compile.deployment.shared_keys import SharedKeys
from torusformer.folders import output_folder


def save_deployment(
    circuit: Circuit,
    folder: str | Path,
    key: Path | None = None,
    keys: SharedKeys | None = None,
) -> None:
    """Write the files; all of them or, on an error, nothing.

    `key` is a PEM file to sign with; `keys` are those under whose restriction it was compiled.
    """
    _save(Interface, circuit, _ports(circuit), folder, key, keys)


def save_decoder_deployment(
    module: Module,
    folder: str | Path,
    key: Path | None = None,
    keys: SharedKeys | None = None,
) -> None:
    """As `save_deployment`, of a module of a decoder's functions."""
    _save_module(DecoderInterface, module, folder, key, keys)


def save_lengths_deployment(
    module: Module,
    folder: str | Path,
    key: Path | None = None,
    keys: SharedKeys | None = None,
) -> None:
    """As `save_deployment`, of a module of one model's lengths, see `deployment.lengths`."""
    _save_module(LengthsInterface, module, folder, key, keys)


def _save_module(
    kind: type[Interface],
    module: Module,
    folder: str | Path,
    key: Path | None,
    keys: SharedKeys | None,
) -> None:
    functions = {name: _ports(function) for name, function in module.functions.items()}
    first = next(iter(module.functions.values()))
    _save(kind, first, {"functions": functions}, folder, key, keys)


def _save(
    kind: type[Interface],
    circuit: Circuit,
    ports: Mapping[str, Any],
    folder: str | Path,
    key: Path | None,
    keys: SharedKeys | None,
) -> None:
    if keys is not None:
        keys.check(circuit.inner.server)
    signer = None if key is None else read_private_key(key)
    with output_folder(folder, kind.ARTEFACT) as new:
        interface = {
            "format": kind.FORMAT,
            "format_version": FORMAT_VERSION,
            **ports,
            "metadata": dict(circuit.program.metadata),
            "p_error": circuit.plan.p_error,
            "sha256": save_archives(circuit.inner, new),
        }
        if keys is not None:
            interface["keys_of"] = keys.keys_id
        (new / FILE).write_text(json.dumps(interface) + "\n")
        if signer is not None:
            sign(new, (FILE, CLIENT, SERVER), signer)


def _ports(circuit: Circuit) -> dict[str, Any]:
    return ports_to_json(circuit.encoding.inputs, circuit.encoding.outputs)
