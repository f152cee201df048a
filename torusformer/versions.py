"""Which releases made an artefact: written beside it, compared when it is read.

`versions.json` is also the mark by which a folder is known as ours (see `folders`):

>>> {"artefact": "deployment", "versions": {"concrete-python": "2.10.0"}}  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from torusformer import __version__
from torusformer.errors import ArtifactError
from torusformer.strict_json import read_json

FILE = "versions.json"
RECORDED = (
    "torusformer",
    "concrete-python",
    "torch",
    "brevitas",
    "onnx",
    "onnxruntime",
    "numpy",
    "scikit-learn",
)


def installed_versions(packages: Iterable[str] = RECORDED) -> dict[str, str]:
    """Distribution name -> installed release; one that is not installed is left out."""
    found = {}
    for package in packages:
        if package == "torusformer":  # known without being installed, from a checkout
            found[package] = __version__
            continue
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_versions(folder: Path, artefact: str) -> None:
    """Write `versions.json`; `artefact` says what the folder is ("run", "deployment")."""
    record = {"artefact": artefact, "versions": installed_versions()}
    (folder / FILE).write_text(json.dumps(record, indent=2) + "\n")


def read_versions(folder: Path, artefact: str) -> dict[str, str]:
    """The releases recorded in `folder`, which has to be an `artefact` of ours."""
    path = folder / FILE
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: not a torusformer {artefact}, it has no {FILE}; give the folder that "
            f"torusformer wrote"
        )
    try:
        record = read_json(path)
        kind = record["artefact"]
        versions = {str(k): str(v) for k, v in record["versions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: truncated or not ours ({type(error).__name__}); make the {artefact} again"
        ) from error
    if kind != artefact:
        raise ArtifactError(f"{folder}: holds a {kind}, not a {artefact}; give the other folder")
    return versions


def check_versions(recorded: Mapping[str, str], packages: Iterable[str], place: str) -> None:
    """Raise ArtifactError if a release of `packages` differs between artefact and installation.

    A package that either side lacks is not compared: a server has no torch.
    """
    here = installed_versions(packages)
    wrong = [p for p in here if p in recorded and recorded[p] != here[p]]
    if wrong:
        made = ", ".join(f"{p} {recorded[p]}" for p in wrong)
        have = ", ".join(f"{p} {here[p]}" for p in wrong)
        raise ArtifactError(
            f"{place}: made with {made}, but {have} is installed; install the releases it was "
            f"made with or make it again"
        )
