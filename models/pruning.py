"""A checkpoint's tokenizer and texts in, one of the pieces that they need out.

Most of a checkpoint's pieces never occur in the texts of a task, and each takes a row of the public
table. Without them a word of such a piece falls apart into smaller ones that were trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torusformer import InputError
from torusformer.models.tokenizer import Tokenizer
from torusformer.strict_json import parse_json

PRUNABLE = "WordPiece"  # whose pieces do not depend on one another
_CONTINUES = "##"


class Pruned(NamedTuple):
    """A tokenizer, and the id (n,) in the whole one of each of its pieces."""

    tokenizer: Tokenizer
    kept: NDArray[np.int64]


def prunable(whole: Tokenizer) -> bool:
    """Whether pieces can be left out of a tokenizer."""
    described = parse_json(whole.text)
    return described["model"].get("type") == PRUNABLE and not described.get("post_processor")


def pruned(whole: Tokenizer, texts: Sequence[str], least: int = 1) -> Pruned:
    """The pieces that occur `least` times in texts, single characters and special ones.

    Raises:
        InputError: the tokenizer is of another kind, whose pieces cannot be taken apart.
    """
    described = parse_json(whole.text)
    model = described["model"]
    if not prunable(whole):
        raise InputError(
            f"a tokenizer of the kind {model.get('type')} keeps all its pieces; only those of a "
            f"{PRUNABLE} without marks around a text can be left out"
        )
    counts = np.zeros(len(whole.vocabulary), np.int64)
    for text in texts:
        np.add.at(counts, whole.ids(text), 1)
    special = {token["content"] for token in described.get("added_tokens") or []}
    special |= {model.get("unk_token"), whole.vocabulary[whole.padding]}
    kept = [
        i
        for i, piece in enumerate(whole.vocabulary)
        if counts[i] >= least or piece in special or len(piece.removeprefix(_CONTINUES)) == 1
    ]
    places = {whole.vocabulary[i]: place for place, i in enumerate(kept)}
    model["vocab"] = places
    for token in described.get("added_tokens") or []:
        token["id"] = places[token["content"]]
    return Pruned(Tokenizer.of(parse_json(json.dumps(described))), np.array(kept, np.int64))
