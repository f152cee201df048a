"""A folder that a long command lives in: made once, locked while in use, refused for other wishes.

What was asked is kept in it as JSON, so a command that was ended anywhere goes on where the same
one is given again.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torusformer import ArtifactError
from torusformer.folders import is_ours, output_folder, require_free
from torusformer.strict_json import parse_json
from torusformer.versions import RECORDED, check_versions, read_versions


class Kind(NamedTuple):
    """What `artefact` the `command` makes, in which `file` what was asked lies, `rooms` in it.

    `free` says which of its options may change.
    """

    artefact: str
    command: str
    file: str
    rooms: Sequence[str] = ()
    free: str = ""


@contextmanager
def kept_folder(path: Path, kind: Kind, asked: Mapping[str, Any]) -> Iterator[Path]:
    """`path`, fresh or with what the same command did before; nobody else may use it now.

    Raises:
        ArtifactError: it holds something else, what was asked was another, or it is in use.
    """
    require_free(path, kind.artefact)
    if not is_ours(path, kind.artefact):
        with output_folder(path, kind.artefact) as new:
            (new / kind.file).write_text(json.dumps(dict(asked), indent=2) + "\n")
            for room in kind.rooms:
                (new / room).mkdir()
    check_versions(read_versions(path, kind.artefact), RECORDED, str(path))
    if not (path / kind.file).is_file():
        raise ArtifactError(f"{path / kind.file}: is missing; give a new folder to --out")
    with (path / kind.file).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process
        except BlockingIOError as error:
            raise ArtifactError(
                f"{path}: another {kind.command} is at work there; wait for it or give another "
                f"--out"
            ) from error
        _check_same(path, kind, file.read(), asked)
        yield path


def _check_same(path: Path, kind: Kind, text: str, asked: Mapping[str, Any]) -> None:
    try:
        before = dict(parse_json(text))
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path / kind.file}: is damaged; give a new folder to --out"
        ) from error
    now = json.loads(json.dumps(dict(asked)))
    for name in now:
        if before.get(name) != now[name]:
            where, old, new = _difference(name, before.get(name), now[name])
            raise ArtifactError(
                f"{path}: was begun with {where} {old!r}, now it is {new!r}; {kind.free}give a new"
                f" folder to --out"
            )


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The first setting in which two objects differ: its name, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for part in new:
            if old.get(part) != new[part]:
                return _difference(f"{name}.{part}", old.get(part), new[part])
    return name, old, new
