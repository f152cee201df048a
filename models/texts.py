"""A .tsv, .csv or .jsonl file in, texts and the label of each out, both checked.

| file | rows |
|---|---|
| .tsv | text, tab, label; nothing is quoted |
| .csv | the same with commas, cells quoted where they hold one |
| .jsonl, .ndjson, .json | an object a line: `text` or `sentence`, and `label` |

A first row with the name `label` and one of `text` and `sentence` is a header: then there may be
other columns, in any order.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from torusformer import InputError
from torusformer.models.sample_files import LABEL, wrong_label
from torusformer.strict_json import parse_json

TEXT = ("text", "sentence")
MOST_BYTES = 256 << 20
LONGEST_ROW = 20_000  # characters
_FORMS = "give a .tsv of text<TAB>label, a .csv or a .jsonl"

Row = tuple[int, list[str]]  # its number, and its cells


class Texts(NamedTuple):
    """Texts, and the label of each."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def read_texts(path: Path) -> Texts:
    """The texts of a file and their labels, in its order, without blanks at either end.

    Raises:
        InputError: the file cannot be read or is too large, a row has no text or no label or is
            too long, or there are too many classes.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; {_FORMS}")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{path}: {size:,} bytes, the limit is {MOST_BYTES:,}; take a part of it")
    match path.suffix.lower():
        case ".tsv":
            reader = _separated(path, _tabbed)
        case ".csv":
            reader = _separated(path, _quoted)
        case ".jsonl" | ".ndjson" | ".json":
            reader = _objects(path)
        case other:
            raise InputError(f"{path}: cannot read {other or 'it'}; {_FORMS}")
    texts, labels, known = list[str](), list[str](), dict[str, str]()
    for number, text, label in reader:
        known.setdefault(label, label)
        if wrong := _wrong_text(text) or wrong_label(label, known):
            raise InputError(f"{path}, row {number}: {wrong}")
        texts.append(text)
        labels.append(known[label])  # one object for all of a class
    if not texts:
        raise InputError(f"{path}: holds no texts; {_FORMS}")
    return Texts(tuple(texts), tuple(labels))


def _wrong_text(text: str) -> str:
    """What is wrong with a text, or nothing."""
    if not text:
        return "has no text; give one or remove the row"
    if len(text) > LONGEST_ROW:
        return f"a text of {len(text):,} characters, the limit is {LONGEST_ROW:,}; shorten it"
    if "\0" in text:
        return "holds the character 0, as UTF-16 read as UTF-8 does; convert the file to UTF-8"
    return ""


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A file of UTF-8; spreadsheets and editors mark the byte order."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text ({error.reason}); convert it") from None
        except csv.Error as error:
            raise InputError(f"{path} cannot be read ({error}); write it again") from None


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    """Number and content of each line that is not blank; one without end is not read to its end."""
    number = 0
    while line := file.readline(4 * LONGEST_ROW):
        number += 1
        if not line.endswith("\n") and len(line) == 4 * LONGEST_ROW:
            raise InputError(
                f"{path}, row {number}: more than {4 * LONGEST_ROW:,} characters; shorten it"
            )
        if line.strip():
            yield number, line.rstrip("\r\n")


def _tabbed(path: Path, file: TextIO) -> Iterator[Row]:
    return ((number, line.split("\t")) for number, line in _lines(path, file))


def _quoted(path: Path, file: TextIO) -> Iterator[Row]:
    reader = csv.reader(file, skipinitialspace=True, strict=True)
    return ((reader.line_num, row) for row in reader if row not in ([], [""]))


def _separated(path: Path, cut: Any) -> Iterator[tuple[int, str, str]]:
    """Row number, text and label of a file of cells."""
    with _opened(path) as file:
        columns: tuple[int, int, int] | None = None
        for number, row in cut(path, file):
            cells = [cell.strip() for cell in row]
            if columns is None:
                columns = _header(path, cells)
                if columns is not None:
                    continue
                columns = (0, 1, 2)
            text, label, width = columns
            if len(cells) != width:
                raise InputError(
                    f"{path}, row {number}: {len(cells)} cells, where {width} belong; {_FORMS}"
                )
            yield number, cells[text], cells[label]


def _header(path: Path, cells: list[str]) -> tuple[int, int, int] | None:
    """Which column is the text, which the label, and how many there are; None for no header."""
    names = [cell.lower() for cell in cells]
    texts = [name for name in names if name in TEXT]
    if LABEL not in names or not texts:
        return None
    if names.count(LABEL) > 1 or len(texts) > 1:
        raise InputError(f"{path} has several columns {LABEL!r} or {' or '.join(TEXT)}; keep one")
    return names.index(texts[0]), names.index(LABEL), len(names)


def _objects(path: Path) -> Iterator[tuple[int, str, str]]:
    """Row number, text and label of a file of an object a line."""
    with _opened(path) as file:
        for number, line in _lines(path, file):
            try:
                found = parse_json(line)
                if not isinstance(found, dict):
                    raise ValueError("no object; one belongs on each line")
                text, label = _fields(found)
            except ValueError as error:
                raise InputError(f"{path}, row {number}: {error}") from None
            yield number, text, label


def _fields(found: Mapping[str, Any]) -> tuple[str, str]:
    names = [name for name in TEXT if name in found]
    if len(names) != 1 or LABEL not in found:
        raise ValueError(f"give an object with {LABEL!r} and one of {' and '.join(TEXT)}")
    text, label = found[names[0]], found[LABEL]
    if not isinstance(text, str):
        raise ValueError(f"its {names[0]} is no text; write it in quotes")
    if type(label) not in (int, str):
        raise ValueError(f"its {LABEL} is {str(label)[:40]}; give text or a whole number")
    if any("\ud800" <= c <= "\udfff" for c in text + str(label)):
        raise ValueError("holds half of a surrogate pair, which is no character; write it again")
    return text.strip(), str(label).strip()
