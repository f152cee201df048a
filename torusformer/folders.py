"""Where results go: everything or nothing, and never over what somebody else put there.

A folder is ours if it has a `versions.json` of ours. Both context managers give a path beside the
target to write into; it takes the target's name only when the block ends without an error.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torusformer.errors import ArtifactError
from torusformer.strict_json import read_json
from torusformer.versions import FILE, write_versions


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
    require_free(path, artefact)
    parent = path.absolute().parent
    _make_parent(parent, path)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    try:
        work.chmod(0o755)  # mkdtemp makes it private
        new = work / "new"
        new.mkdir()
        yield new
        write_versions(new, artefact)
        require_free(path, artefact)  # somebody may have written there meanwhile
        if path.exists():
            path.rename(work / "old")
        try:
            new.rename(path)
        except OSError:
            if (work / "old").exists():
                (work / "old").rename(path)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
    parent = path.absolute().parent
    _make_parent(parent, path)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    try:
        new = work / path.name
        yield new
        new.replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_parent(parent: Path, path: Path) -> None:
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be made ({error.strerror}); give another --out") from (
            error
        )
