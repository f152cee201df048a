"""Where results go: everything or nothing, and never over what somebody else put there.

A folder is ours if it has a `versions.json` of ours. Both context managers give a path beside the
target to write into; it takes the target's name only when the block ends without an error. What a
killed process left beside it is removed, and what that one had moved away is put back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torusformer.errors import ArtifactError
from torusformer.strict_json import read_json
from torusformer.versions import FILE, write_versions
from torusformer.work import abandoned, work_folder

NEW, OLD = "new", "old"  # in a work folder: what is being made, what it replaces
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def is_ours(folder: Path, artefact: str) -> bool:
    """Whether `folder` holds an `artefact` that torusformer wrote."""
    try:
        record = read_json(folder / FILE)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("artefact") == artefact


def require_free(path: Path, artefact: str) -> None:
    """Raise ArtifactError unless `path` is absent, an empty folder, or an earlier `artefact`."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir() and not path.is_symlink():
        if not any(path.iterdir()) or is_ours(path, artefact):
            return
        raise ArtifactError(
            f"{path}: the folder already holds something that is not a torusformer {artefact}, "
            f"nothing was written; give an empty or new folder to --out"
        )
    raise ArtifactError(f"{path}: is not a folder, nothing was written; give another --out")


@contextmanager
def output_folder(path: str | Path, artefact: str) -> Iterator[Path]:
    """A fresh folder to fill that becomes `path`, marked with `versions.json`."""
    path = Path(path)
    for left in abandoned(path.absolute().parent, _hidden(path)):
        _give_back(left, path)
    require_free(path, artefact)
    with _beside(path) as work:
        new = work / NEW
        new.mkdir()
        yield new
        write_versions(new, artefact)
        require_free(path, artefact)  # somebody may have written there meanwhile
        if path.exists():
            path.rename(work / OLD)
        try:
            new.rename(path)
        except OSError:
            if (work / OLD).exists():
                (work / OLD).rename(path)
            raise


def _give_back(left: Path, path: Path) -> None:
    """What stood at `path`, if a process was killed between moving it away and its own result."""
    if (left / NEW).exists() and (left / OLD).exists() and not os.path.lexists(path):
        (left / OLD).rename(path)


@contextmanager
def output_file(path: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A path to write that becomes `path`; an existing file is replaced only if `is_ours` of it."""
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder, nothing was written; give a file to --out")
    if path.exists() and not is_ours(path):
        raise ArtifactError(
            f"{path}: already holds something that torusformer did not write, nothing was "
            f"written; give another name to --out"
        )
    with _beside(path) as work:
        new = work / path.name
        yield new
        new.replace(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A work folder beside `path`, where a rename is all that it takes to get there."""
    parent = path.absolute().parent
    with ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(work_folder(parent, _hidden(path)))
        except OSError as error:
            raise ArtifactError(
                f"{path}: cannot be made ({error.strerror}); give another --out"
            ) from error
        try:
            yield work
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise ArtifactError(
                f"{path}: cannot be written ({error.strerror}), what was there before is as it "
                f"was; free some space or give another --out"
            ) from error


def _hidden(path: Path) -> str:
    """What the names of work folders beside `path` begin with."""
    return f".{path.name}"
