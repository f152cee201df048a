"""Checkpoint folders: config.json beside model.safetensors, nothing executable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from torusformer import ArtifactError, InputError, __version__
from torusformer.strict_json import read_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_folder(
    folder: str | Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write `settings` (its "kind" tells readers apart) and `weights` into `folder`."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; give a folder to write the checkpoint into")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**settings, "version": __version__}, indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    # Clones: safetensors refuses tensors that share memory, as shared quantizers do.
    data = save({k: v.detach().clone().contiguous() for k, v in weights.items()})
    (folder / WEIGHTS_FILE).write_bytes(data)  # not by the library: a full disk is an OSError here


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of a checkpoint folder, of whatever kind."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; point at a folder that `train` wrote")
    try:
        settings = read_json(path)
    except ValueError as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}); write it again") from None
    if not isinstance(settings, dict) or "kind" not in settings or "version" not in settings:
        raise ArtifactError(f"{path} is no torusformer checkpoint: it lacks 'kind' or 'version'")
    return settings


@contextmanager
def load_folder(
    folder: str | Path, kind: str
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Settings and weights of a folder that `save_folder` wrote with this `kind`.

    Used as a context: building the model inside it turns a mismatch into an `ArtifactError`.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if settings["kind"] != kind:
        raise ArtifactError(
            f"{folder / CONFIG_FILE} describes a {settings['kind']!r} and a {kind!r} is wanted;"
            " point at the other folder"
        )
    if settings["version"] != __version__:
        raise ArtifactError(
            f"{folder} was written by torusformer {settings['version']} and this is {__version__};"
            " train again or install that version"
        )
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; point at a folder that `train` wrote")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or foreign ({error}); write it again") from None
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(f"{path}: {name} holds NaN or infinity; train again")
    try:
        yield settings, weights
    except InputError as error:
        raise ArtifactError(f"{folder / CONFIG_FILE}: {error}") from None
    except KeyError as error:
        raise ArtifactError(f"{folder / CONFIG_FILE} lacks {error}; write it again") from None
    except RuntimeError as error:  # torch: names or shapes that do not fit
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path} does not fit its config.json ({reason})") from None
