"""The folder that a search lives in: made once, locked while in use, refused for another search.

`search.json` is what was asked, `journal.jsonl` is Optuna's storage: a line of JSON for each event,
on disk before the search goes on. (Optuna pickles only where a storage keeps snapshots; a journal
in a file keeps none.) So a search can be ended anywhere and goes on with the same command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage

from torusformer import ArtifactError
from torusformer.pipelines.kept_folder import Kind, kept_folder

ASKED, JOURNAL, PROGRAMS = "search.json", "journal.jsonl", "programs"
ARTEFACT = "tuning"
SEARCH = Kind(ARTEFACT, "tune", ASKED, (PROGRAMS,), "only --trials may change; ")


@contextmanager
def search_folder(path: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """`path`, fresh or with what the same search measured before; nobody else may use it now."""
    with kept_folder(path, SEARCH, asked):
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


def _mend(journal: Path) -> None:
    """Drop what a process that was killed left behind: half a line, a lock."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if journal.exists():
        text = journal.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            with journal.open("r+b") as file:
                file.truncate(whole)
