"""Files of texts and labels: every form reads the same, and each mistake is named with its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torusformer import InputError
from torusformer.models import texts
from torusformer.models.texts import Texts, read_texts

ROWS = (("a quiet triumph", "1"), ('it says "no", twice', "0"), ("Привет 😀", "1"))
FOUND = Texts(tuple(text for text, _ in ROWS), tuple(label for _, label in ROWS))


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def tsv(*head: str) -> str:
    return "\n".join([*head, *("\t".join(row) for row in ROWS), ""])


def csv_cells(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


CSV = "".join(f"{csv_cells(text)},{label}\r\n" for text, label in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", tsv()),
        ("a.tsv", tsv("sentence\tlabel")),
        ("a.tsv", "label\tid\ttext\n" + "".join(f"{y}\t7\t{x}\n" for x, y in ROWS)),
        ("a.TSV", "\n\n" + tsv().replace("\n", "\r\n")),
        ("a.csv", CSV),
        ("a.csv", "\ufefftext,label\r\n" + CSV),
        ("a.jsonl", "".join(json.dumps({"text": x, "label": int(y)}) + "\n" for x, y in ROWS)),
        ("a.json", "\n".join(json.dumps({"sentence": x, "label": y, "idx": 3}) for x, y in ROWS)),
    ],
)
def test_every_form_reads_the_same(tmp_path: Path, name: str, content: str) -> None:
    assert read_texts(written(tmp_path, name, content)) == FOUND


@given(st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\0"), min_size=1))
def test_any_line_is_a_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    if not text.strip() or text.strip().lower() in ("text", "sentence"):
        return
    path = written(tmp_path_factory.mktemp("any"), "a.tsv", f"first\t0\n{text}\t1\n")
    assert read_texts(path).texts[-1] == text.strip()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.tsv", "", "holds no texts"),
        ("a.tsv", "text\tlabel\n", "holds no texts"),
        ("a.tsv", "good\t1\nno label\n", "row 2: 1 cells, where 2 belong"),
        ("a.tsv", "good\t1\n \t0\n", "row 2: has no text"),
        ("a.tsv", "good\t1\nbad\t\n", "row 2: has no label"),
        ("a.tsv", "good\t1\nbad\t" + "x" * 201, "a label of 201 characters, the limit is 200"),
        ("a.tsv", "good\t1\n" + "x" * 20_001 + "\t0", "a text of 20,001 characters"),
        ("a.tsv", "x" * 100_000, "row 1: more than 80,000 characters"),
        ("a.tsv", "".join(f"t\t{i}\n" for i in range(1001)), "more than 1000 classes"),
        ("a.tsv", "text\tsentence\tlabel\n", "several columns"),
        ("a.tsv", "schön\t1\n".encode("latin-1"), "is not UTF-8 text"),
        ("a.tsv", "good\t1\n".encode("utf-16"), "is not UTF-8 text"),
        ("a.tsv", "good\t1\n".encode("utf-16-le"), "holds the character 0"),
        ("a.csv", 'good,1\n"open,0\n', "cannot be read"),
        ("a.csv", "x" * 200_000, "cannot be read"),
        ("a.jsonl", '{"text": "good"}', "row 1: give an object with 'label'"),
        ("a.jsonl", '{"text": "a", "sentence": "b", "label": 1}', "one of text and sentence"),
        ("a.jsonl", '{"text": "a", "label": 1.5}', "its label is 1.5; give text or a whole number"),
        ("a.jsonl", '{"text": "a", "label": true}', "its label is True"),
        ("a.jsonl", '{"text": ["a"], "label": 1}', "its text is no text"),
        ("a.jsonl", '{"text": "\\ud83d", "label": 1}', "half of a surrogate pair"),
        ("a.jsonl", '[{"text": "a", "label": 1}]', "row 1: no object"),
        ("a.jsonl", '{"text": "a", "label": 1', "row 1: Expecting"),
        ("a.txt", "good\t1\n", "cannot read .txt; give a .tsv"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_texts(written(tmp_path, name, content))


def test_what_is_not_there_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"is missing; give a \.tsv"):
        read_texts(tmp_path / "a.tsv")
    monkeypatch.setattr(texts, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="20 bytes, the limit is 10"):
        read_texts(written(tmp_path, "a.tsv", "x" * 20))
