"""A folder to work in, gone when its block ends; what a killed process left, the next one removes.

A work folder is known by its name and by the lock file in it, on which its process holds a lock.
The system lets go of that lock however the process ends, so a folder whose lock is free has nobody
who works in it any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "torusformer.lock"


@contextmanager
def work_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new private folder `name.xxxxxxxx` in `parent`; abandoned ones of this name are removed."""
    for _ in abandoned(parent, name):
        pass
    folder, lock = _make(parent, name)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A work folder where temporary files go, for what nobody reads afterwards."""
    with work_folder(Path(tempfile.gettempdir()), "torusformer") as folder:
        yield folder


def abandoned(parent: Path, name: str) -> Iterator[Path]:
    """Work folders of this name whose process has ended; each is removed behind its turn."""
    ours = re.compile(re.escape(name) + r"\.[a-z0-9_]{8}")  # as mkdtemp draws them
    try:
        found = [Path(e.path) for e in os.scandir(parent) if ours.fullmatch(e.name) and _own(e)]
    except OSError:  # there is no such folder, or it is not for us to read
        return
    for folder in found:
        with suppress(OSError):
            folder.rmdir()  # empty: its process ended just before or behind its lock file
            continue
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # no lock file: not one of these
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody works there
            os.close(lock)
            continue
        try:
            yield folder
        finally:
            _remove(folder)
            os.close(lock)


def _own(entry: os.DirEntry[str]) -> bool:
    is_folder = entry.is_dir(follow_symlinks=False)
    return is_folder and entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _make(parent: Path, name: str) -> tuple[Path, int]:
    """A folder and its lock; made again if another process removed it before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=parent))
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # a file system without locks: nobody else gets one either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove all of it, the lock file last: half a removal is still known as abandoned."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
