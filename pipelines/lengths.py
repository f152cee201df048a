"""Programs of one model by length in, a folder of deployments under one set of keys out.

| file | holds |
|---|---|
| `lengths.json` | which lengths there are, and which of them the keys are those of |
| `8/`, `16/`, … | the deployment of each |
| `tokenizer.json` | what makes ids of texts, on the client |
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torusformer import ArtifactError
from torusformer.fhe_compile import Plan, compile_plan, save_deployment
from torusformer.fhe_compile.circuit.circuit import Circuit
from torusformer.fhe_compile.circuit.concrete_options import CompileError
from torusformer.fhe_compile.deployment.shared_keys import shared_keys
from torusformer.models.tokenizer import Tokenizer
from torusformer.progress import Progress
from torusformer.strict_json import read_json

INDEX, FORMAT, FORMAT_VERSION = "lengths.json", "torusformer-lengths", 1
LONGEST, MOST = 1 << 16, 64  # pieces of a text, and how many lengths
_PROGRAM = re.compile(r"program\.([1-9]\d{0,4})\.onnx")


@dataclass(frozen=True)
class Lengths:
    """Of the deployments in a folder, ascending; all take the keys of `keys_of`."""

    tokens: tuple[int, ...]
    keys_of: int

    def save(self, folder: Path) -> None:
        """Write the index."""
        data = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "lengths": list(self.tokens),
            "keys_of": self.keys_of,
        }
        (folder / INDEX).write_text(json.dumps(data) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Lengths:
        """Inverse of `save`; an ArtifactError for what is no index."""
        path = folder / INDEX
        try:
            data = read_json(path)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError("no list of lengths")
            if data.get("format_version") != FORMAT_VERSION:
                raise ValueError(
                    f"version {str(data.get('format_version'))[:9]}, this release reads "
                    f"{FORMAT_VERSION}"
                )
            tokens, keys_of = data.get("lengths"), data.get("keys_of")
            if not isinstance(tokens, list) or not 0 < len(tokens) <= MOST:
                raise ValueError("no lengths, or too many")
            if not all(type(n) is int and 0 < n <= LONGEST for n in tokens):
                raise ValueError("lengths that are no small whole numbers")
            if tokens != sorted(set(tokens)) or keys_of not in tokens:
                raise ValueError("lengths out of order, or keys of none of them")
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path}: is no index of lengths ({error}); compile the programs again"
            ) from None
        return cls(tuple(tokens), keys_of)


def program_files(folder: Path) -> dict[int, Path]:
    """The programs of a folder by length, shortest first: `program.8.onnx` is of eight pieces."""
    found = ((_PROGRAM.fullmatch(path.name), path) for path in folder.iterdir())
    named = {int(match[1]): path for match, path in found if match}
    return dict(sorted(named.items()))


def compile_lengths(
    plans: Mapping[int, Plan], folder: Path, tokenizer: Tokenizer, key: Path | None = None
) -> dict[int, Circuit]:
    """Compile all lengths under the keys of one, and write them into `folder`; the circuits.

    The longest is the most demanding one, so its keys are tried first. `key` is a PEM file to sign
    each with.

    Raises:
        CompileError: one of them cannot be compiled, or there is none whose keys all others take.
    """
    for first in sorted(plans, reverse=True):
        others = [length for length in sorted(plans, reverse=True) if length != first]
        made: dict[int, Circuit] = {}
        made[first] = _compiled(plans, first, folder, key)
        try:
            for length in others:
                made[length] = _compiled(plans, length, folder, key, first)
        except CompileError as error:
            refused = error
            for length in plans:
                shutil.rmtree(folder / str(length), ignore_errors=True)
            continue
        Lengths(tuple(sorted(plans)), first).save(folder)
        tokenizer.save(folder)
        return dict(sorted(made.items()))
    raise refused


def _compiled(
    plans: Mapping[int, Plan], length: int, folder: Path, key: Path | None, first: int | None = None
) -> Circuit:
    keys = None if first is None else shared_keys(folder / str(first))
    with Progress(f"compile {length} pieces"):
        circuit = compile_plan(plans[length], keys=keys and keys.restriction)
        save_deployment(circuit, folder / str(length), key, keys)
    return circuit
