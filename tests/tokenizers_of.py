"""Descriptions of tokenizers for tests: words, each a piece, as tokenizer.json has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def special(index: int, content: str) -> dict[str, Any]:
    return {
        "id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip


def of_words(words: Sequence[str], **changes: Any) -> dict[str, Any]:
    """WordLevel in lower case, with a template; pads to a width and cuts, as checkpoints' do."""
    template = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    marks = {n: {"id": n, "ids": [PIECES.index(n)], "tokens": [n]} for n in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
        },
        "padding": {
            "strategy": {"Fixed": 7}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": [special(i, name) for i, name in enumerate(PIECES)],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing", "single": template, "pair": template,
            "special_tokens": marks,
        },
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate([*PIECES, *words])},
            "unk_token": "[UNK]",
        },
        **changes,
    }  # fmt: skip


def saved(folder: Path, described: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(described))
    return path
