"""Concrete, imported without its deprecation warning in the user's sight."""

from __future__ import annotations

import warnings
from typing import Any

with warnings.catch_warnings():  # it declares its namespace with pkg_resources
    warnings.simplefilter("ignore")
    from concrete import fhe
    from concrete.compiler import ClientProgram, ProgramInfo
    from concrete.fhe.compilation.module_compiler import FunctionDef, ModuleCompiler
    from concrete.fhe.compilation.specs import ClientSpecs
    from concrete.fhe.compilation.wiring import Input, Output, Wire, Wired

__all__ = [
    "FunctionDef",
    "Input",
    "ModuleCompiler",
    "Output",
    "Wire",
    "Wired",
    "client_for",
    "decrypt_output",
    "fhe",
    "restriction_of",
    "use_keys",
]


def decrypt_output(client: fhe.Client, function: str, position: int, value: fhe.Value) -> Any:
    """One output of a function by itself; `Client.decrypt` takes all that stand before it too."""
    client.keygen()
    info = client.specs.program_info
    program = ClientProgram.create_encrypted(info, client.keys._keyset)
    circuit = program.get_client_circuit(function)
    return circuit.process_output(value._inner, position).to_py_val()


def restriction_of(specification: str) -> Any:
    """To the keys of a program's specification: what else is compiled under it takes no others."""
    info = ProgramInfo.deserialize(specification.encode())
    return info.get_keyset_info().get_restriction()


def client_for(specification: str) -> fhe.Client:
    """Whoever makes keys, encrypts and decrypts by a program's specification, which is JSON."""
    return fhe.Client(ClientSpecs(ProgramInfo.deserialize(specification.encode())))


def use_keys(client: fhe.Client, other: fhe.Client) -> None:
    """One client takes the keys of another, whose specification lists the same."""
    client.keys._keyset = other.keys._keyset
