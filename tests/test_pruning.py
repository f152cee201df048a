"""A tokenizer without the pieces that no text needs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from torusformer import InputError
from torusformer.models.pruning import pruned
from torusformer.models.tokenizer import Tokenizer
from torusformer.strict_json import parse_json

TEXTS = ("a quiet triumph", "a loud failure", "quiet and loud", "triumph of the will")


def test_texts_keep_their_pieces_and_others_fall_apart() -> None:
    whole = Tokenizer.trained(TEXTS, 120)
    seen = TEXTS[:2]
    few, kept = pruned(whole, seen)
    assert len(few.vocabulary) == len(kept) < len(whole.vocabulary)
    for text in seen:
        assert kept[few.ids(text)].tolist() == whole.ids(text)
    assert len(few.ids("will")) > len(whole.ids("will"))
    assert few.vocabulary[few.padding] == whole.vocabulary[whole.padding]
    assert [whole.vocabulary[i] for i in kept] == list(few.vocabulary)
    np.testing.assert_array_equal(kept, np.sort(kept))


def test_a_piece_may_have_to_occur_more_often() -> None:
    whole = Tokenizer.trained(TEXTS, 120)
    assert len(pruned(whole, TEXTS, least=2).kept) < len(pruned(whole, TEXTS).kept)


def test_other_kinds_are_refused() -> None:
    described = parse_json(Tokenizer.trained(TEXTS, 120).text)
    described["model"] = {"type": "WordLevel", "vocab": described["model"]["vocab"],
                          "unk_token": "[UNK]"}  # fmt: skip
    with pytest.raises(InputError, match="of the kind WordLevel keeps all its pieces"):
        pruned(Tokenizer.of(parse_json(json.dumps(described))), TEXTS)
