"""The folder that a search lives in: made once, locked while in use, refused for another search.

`search.json` is what was asked, `journal.jsonl` is Optuna's storage: a line of JSON for each event,
on disk before the search goes on. (Optuna pickles only where a storage keeps snapshots; a journal
in a file keeps none.) So a search can be ended anywhere and goes on with the same command.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage

from torusformer import ArtifactError
from torusformer.folders import is_ours, output_folder, require_free
from torusformer.strict_json import parse_json
from torusformer.versions import RECORDED, check_versions, read_versions

ASKED, JOURNAL, PROGRAMS = "search.json", "journal.jsonl", "programs"
ARTEFACT = "tuning"


@contextmanager
def search_folder(path: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """`path`, fresh or with what the same search measured before; nobody else may use it now."""
    require_free(path, ARTEFACT)
    if not is_ours(path, ARTEFACT):
        with output_folder(path, ARTEFACT) as new:
            (new / ASKED).write_text(json.dumps(dict(asked), indent=2) + "\n")
            (new / PROGRAMS).mkdir()
    check_versions(read_versions(path, ARTEFACT), RECORDED, str(path))
    with (path / ASKED).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process
        except BlockingIOError as error:
            raise ArtifactError(
                f"{path}: another tune is at work there; wait for it or give another --out"
            ) from error
        _check_same(path, file.read(), asked)
        _mend(path / JOURNAL)
        yield path


def open_study(folder: Path) -> optuna.Study:
    """The search of this folder, with all that is measured: accuracy up, seconds down."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=ARTEFACT,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
    except (ValueError, LookupError, TypeError, AssertionError) as error:  # not Optuna's lines
        raise ArtifactError(
            f"{folder / JOURNAL}: is damaged ({error}); give a new folder to --out"
        ) from error


def _check_same(path: Path, text: str, asked: Mapping[str, Any]) -> None:
    try:
        before = dict(parse_json(text))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path / ASKED}: is damaged; give a new folder to --out") from error
    now = json.loads(json.dumps(dict(asked)))
    if differ := [name for name in now if before.get(name) != now[name]]:
        name = differ[0]
        raise ArtifactError(
            f"{path}: was searched with {name} {before.get(name)!r}, now it is {now[name]!r}; "
            f"only --trials may change; give a new folder to --out"
        )


def _mend(journal: Path) -> None:
    """Drop what a process that was killed left behind: half a line, a lock."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if journal.exists():
        text = journal.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            with journal.open("r+b") as file:
                file.truncate(whole)
