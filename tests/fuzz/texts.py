"""Files of texts and tokenizers, made wrong: .tsv, .csv, .jsonl and tokenizer.json.

Each case writes them and reads them as `train --task sentiment` does, or a tokenizer as `run` does.
What is accepted is checked: ids of the vocabulary, padding behind the text, a class for each text,
the same ids when the tokenizer is saved and read again.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.programs import mutate_json, spoil_text
from tests.fuzz.samples import mutated
from tests.tokenizers_of import of_words, saved
from torusformer.models.sentiment import TextOptions
from torusformer.models.tokenizer import Tokenizer
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.training import Recipe

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # cases run in forked processes

WORDS = ("good", "bad", "dull", "fine", "film", "a", "not", ",", "##s")
ODD = (
    "", " ", "\t", "\u3000", "\x00", "\ufeff", "\u202e", "\u200b", "\ud7ff", "\U0010ffff",
    "e\u0301",
    "😀", "👩‍👩‍👧", "مرحبا", "不错", "\u2028", "\x0b", "\x85", '"', '""', '"a', "a\"b", "'",
    "[PAD]",
    "[UNK]", "[CLS]", "<pad>", "##s", "a\nb", "a\rb", "\\n", "\\ud800", "\ufdfa" * 40, "a" * 120,
    "a" * 19_999, "a" * 20_001, "a " * 9_000, "=1+1", "-1", "nan",
)  # fmt: skip
LABELS = ("up", "down", "1", "0", "1.0", "", " ", "x" * 201, "√", "label", "text", "nan", "\u200b")
HEADERS = (
    ("text", "label"), ("label", "sentence"), ("Text", "LABEL"), ("text", "sentence"),
    ("text", "text"), ("label", "label"), ("sentence", "score"), ("", "label"),
    ("text", "x", "label"),
)  # fmt: skip
CODES = ("utf-8",) * 20 + ("utf-8-sig", "utf-16", "latin-1", "utf-32-le")
ENDS = ("\n",) * 10 + ("\r\n", "\r", "\n\n", "\u2028")
MODELS: tuple[dict[str, Any], ...] = (
    {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
     "max_input_chars_per_word": 100},
    {"type": "BPE", "merges": [["g", "o"], ["o", "d"]], "unk_token": "[UNK]"},
    {"type": "BPE", "merges": ["g o", "b a"], "byte_fallback": True},
    {"type": "Unigram", "unk_id": 1},
)  # fmt: skip


def make(seed: int, folder: Path) -> Case:
    """A case, the same for the same seed."""
    draw = random.Random(seed)
    return draw.choice((_rows, _rows, _objects, _described))(draw, folder)


def _table(draw: random.Random, edits: list[str]) -> list[list[str]]:
    """Rows of a text and a label, some of them odd."""
    rows = [[" ".join(draw.choices(WORDS[:7], k=draw.randrange(1, 6))), LABELS[i % 2]]
            for i in range(24)]  # fmt: skip
    for name in draw.choices(
        ("text", "part", "label", "cells", "none", "class"), k=draw.choice((0, 1, 1, 2))
    ):
        i = draw.randrange(len(rows)) if rows else 0
        edits.append(name)
        match name:
            case "text":
                rows[i:i] = [[draw.choice(ODD), "up"]]
            case "part" if rows:
                rows[i][0] += draw.choice(ODD)
            case "label" if rows:
                rows[i][-1] = draw.choice(LABELS)
            case "cells":
                rows[i:i] = [draw.choices(ODD[:8], k=draw.randrange(5))]
            case "none":
                del rows[draw.randrange(3) :]
            case "class":
                rows.extend(
                    [f"a film {k}", f"class {k}"] for k in range(draw.choice((1, 5, 1_100)))
                )
    return rows


def _rows(draw: random.Random, folder: Path) -> Case:
    """.tsv or .csv, with a header or not."""
    edits: list[str] = []
    rows, suffix = (
        _table(draw, edits),
        draw.choice((".tsv",) * 5 + (".csv",) * 5 + (".TSV", ".txt", "")),
    )
    if draw.random() < 0.25:
        header = draw.choice(HEADERS)
        edits.append(f"header {header}")
        rows = [[*header], *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    end = draw.choice(ENDS)
    if suffix == ".csv" and draw.random() < 0.7:
        file = io.StringIO()
        csv.writer(file, lineterminator=end, quoting=draw.choice((0, 1))).writerows(rows)
        text = file.getvalue()
    else:
        comma = draw.choice((",",) if suffix == ".csv" else ("\t",) * 5 + (",", "\t\t"))
        text = end.join(comma.join(row) for row in rows)
    return _read(draw, folder / f"texts{suffix}", text, edits)


def _objects(draw: random.Random, folder: Path) -> Case:
    """.jsonl: an object a line, or something else."""
    edits: list[str] = []
    lines = []
    for row in _table(draw, edits):
        text, label = [*row, "", ""][:2]
        line: Any = {draw.choice(("text",) * 30 + ("sentence",)): text, "label": label}
        if draw.random() < 0.02:
            line["label"] = draw.choice((1, 10**400, 1.5, None, True, [], {}, "\ud800"))
        if draw.random() < 0.02:
            mutate_json(line, draw)
        said = json.dumps(line, ensure_ascii=draw.random() < 0.7)
        lines.append(spoil_text(said, draw) if draw.random() < 0.01 else said)
    if draw.random() < 0.05:
        edits.append("nested")
        lines[:] = [draw.choice(("[" * 50_000, '{"text":' * 9_000, "9" * 30_000, "[1]", "{}"))]
    suffix = draw.choice((".jsonl", ".ndjson", ".json"))
    return _read(draw, folder / f"texts{suffix}", draw.choice(ENDS).join(lines), edits)


def _read(draw: random.Random, path: Path, text: str, edits: list[str]) -> Case:
    """Read as training texts or as held-out ones, with a tokenizer of a checkpoint or a new one."""
    code = draw.choice(CODES)
    path.write_bytes(mutated(draw, text.encode(code, "replace"), [*edits, code]))
    other = path.with_name("other.tsv")
    other.write_text("good film\tup\nbad film\tdown\n" * 6)
    data, test = draw.choice(((path, None), (path, other), (other, path), (path, path)))
    tokenizer = saved(path.parent, of_words(WORDS)) if draw.random() < 0.5 else None
    options = TextOptions(test, tokenizer, template=tokenizer is not None and draw.random() < 0.3)

    def run() -> None:
        settings = Settings.from_name("tiny-sentences")
        with contextlib.redirect_stderr(io.StringIO()):  # it says how many texts it cuts
            recipe = Recipe.from_settings("sentiment", settings, data=data, texts=options)
        task, tokens = recipe.task, settings.model.tokens
        assert task.vocabulary is not None
        assert recipe.model.vocabulary == len(task.vocabulary)
        for x, y in ((task.x_train, task.y_train), (task.x_test, task.y_test)):
            assert x.shape == (len(y), tokens)
            assert ((x >= 0) & (x < len(task.vocabulary))).all()
            assert ((y >= 0) & (y < len(task.labels))).all()
            assert (x[:, 0] != task.padding).all()  # a text has a piece
            empty = x == task.padding
            assert (empty[:, 1:] >= empty[:, :-1]).all()  # padding stands behind it

    return Case(f"{path.name} {code} {edits}, {options}", run)


def _described(draw: random.Random, folder: Path) -> Case:
    """tokenizer.json of any kind, some value of it another, or no JSON any more."""
    described = of_words(WORDS)
    if draw.random() < 0.7:
        vocabulary: Any = described["model"]["vocab"]
        model = dict(draw.choice(MODELS))
        if model["type"] == "BPE":
            vocabulary |= {c: len(vocabulary) + i for i, c in enumerate("gobad")}
            vocabulary |= {c: len(vocabulary) + i for i, c in enumerate(("go", "od", "ba"))}
        if model["type"] == "Unigram":
            vocabulary = [[piece, -draw.random()] for piece in vocabulary]
        described["model"] = {**model, "vocab": vocabulary}
    edits = [described["model"]["type"]]
    if draw.random() < 0.3:
        edits.append("component")
        stage = draw.choice(("normalizer", "pre_tokenizer", "post_processor", "decoder", "padding"))
        described[stage] = draw.choice(
            (
                None, {}, [], {"type": "Lowercase"}, {"type": "ByteLevel"}, {"type": "Replace"},
                {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated",
                 "invert": False},
                {"type": "Replace", "pattern": {"Regex": "(x"}, "content": ""},
                {"type": "Replace", "pattern": {"String": ""}, "content": "aa"},
                {"type": "Prepend", "prepend": "a" * 10_000}, {"type": "Whitespace"},
                {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
                {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Shell"}]},
                {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
            )
        )  # fmt: skip
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        edits.append("value")
        mutate_json(described, draw)
    text = json.dumps(described)
    if draw.random() < 0.15:
        edits.append("text")
        text = spoil_text(text, draw)
    path = folder / "tokenizer.json"
    path.write_bytes(mutated(draw, text.encode(), edits))
    template = draw.random() < 0.5
    asked = [draw.choice(ODD) + draw.choice(("", " good film", " not bad")) for _ in range(3)]

    def run() -> None:
        read = Tokenizer.load(path, template=template)
        assert 0 <= read.padding < len(read.vocabulary)
        assert read.about()["vocabulary"] == len(read.vocabulary)
        (folder / "again").mkdir()
        read.save(folder / "again")
        again = Tokenizer.load(folder / "again", template=True)
        assert again.digest == read.digest
        for text in asked:
            ids = read.ids(text)
            assert ids == again.ids(text)
            assert set(ids) <= set(range(len(read.vocabulary)))
            row, (length,) = read.rows([text], 4)
            assert length == len(ids)
            assert row.dtype == np.int64

    return Case(f"tokenizer {edits} {template}", run)
