"""Text to ids: the tokenizer of a checkpoint and a trained one, and files that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizers_of import of_words, saved, special
from torusformer import ArtifactError, InputError
from torusformer.models import tokenizer as module
from torusformer.models.tokenizer import Tokenizer
from torusformer.strict_json import parse_json

WORDS = ("a", "quiet", "triumph", "dull")
TEXTS = ("a quiet triumph", "a dull plot, a dull film", "quietly brilliant", "Dull! dull? DULL")


def bpe() -> dict[str, Any]:
    """Merges of letters, as GPT-2's: no unknown piece, and none to fill up."""
    vocabulary = {c: i for i, c in enumerate("abcd")} | {"ab": 4}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]]}
    return of_words((), model=model, padding=None, truncation=None, added_tokens=[],
                    post_processor=None)  # fmt: skip


def unigram() -> dict[str, Any]:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["<pad>", 0.0], ["a", -1.0]]}
    return of_words((), model=model, padding=None, truncation=None, post_processor=None,
                    added_tokens=[special(1, "<pad>")])  # fmt: skip


def test_a_checkpoints_adds_nothing_and_cuts_nothing(tmp_path: Path) -> None:
    """The file says: pad to seven, cut at three, put marks around. Only marks can be asked for."""
    path = saved(tmp_path, of_words(WORDS))
    plain = Tokenizer.load(tmp_path)
    assert plain.ids("A quiet dull triumph") == [4, 5, 7, 6]
    assert (plain.padding, plain.vocabulary[4:]) == (0, WORDS)
    assert Tokenizer.load(path, template=True).ids("a") == [2, 4, 3]
    x, lengths = plain.rows(["a", "dull dull dull a a"], 3)
    assert x.tolist() == [[4, 0, 0], [7, 7, 7]]
    assert lengths.tolist() == [1, 5]


def test_what_is_saved_reads_as_it_was(tmp_path: Path) -> None:
    saved(tmp_path, of_words(WORDS))
    for template in (False, True):
        tokenizer = Tokenizer.load(tmp_path, template=template)
        (folder := tmp_path / str(template)).mkdir()
        tokenizer.save(folder)
        assert Tokenizer.load(folder, template=True) == tokenizer
    assert len({Tokenizer.load(tmp_path, template=t).digest for t in (False, True)}) == 2
    assert "triumph" not in json.dumps(tokenizer.about())


def test_names_of_special_pieces_are_text(tmp_path: Path) -> None:
    """Nobody can write padding, or a mark, into a text."""
    ids = Tokenizer.load(saved(tmp_path, of_words(WORDS))).ids("a [PAD] [SEP]")
    assert ids[0] == 4
    assert set(ids[1:]) == {1}


def test_padding_is_added_where_there_is_none() -> None:
    tokenizer = Tokenizer.of(bpe())
    assert tokenizer.vocabulary == ("a", "b", "c", "d", "ab", "[PAD]")
    assert (tokenizer.padding, tokenizer.ids("abc")) == (5, [4, 2])
    with pytest.raises(InputError, match=r"'😀' holds no piece that the tokenizer knows"):
        tokenizer.ids("😀")
    assert Tokenizer.of(unigram()).padding == 1


def test_trained_alike_in_every_run() -> None:
    """Ties everywhere: without an order of its own, the library numbers pieces at random."""
    texts = ["".join(chr(97 + (i * j) % 26) for j in range(1, 6)) for i in range(200)]
    found = {Tokenizer.trained(texts, 150).digest for _ in range(4)}
    assert len(found) == 1


def test_a_trained_one_knows_its_words() -> None:
    tokenizer = Tokenizer.trained(TEXTS * 3, 60)
    assert len(tokenizer.vocabulary) <= 60
    assert tokenizer.vocabulary[:2] == ("[PAD]", "[UNK]")
    assert [tokenizer.vocabulary[i] for i in tokenizer.ids("DULL")] == ["dull"]
    assert tokenizer.ids("Привет") == [1]  # another script
    assert tokenizer.ids("😀 dull")[0] == 1
    tokenizer = Tokenizer.trained(TEXTS, 20)
    assert len(tokenizer.vocabulary) <= 20
    with pytest.raises(InputError, match="a tokenizer of 3 pieces; give from 8"):
        Tokenizer.trained(TEXTS, 3)


TRAINED = Tokenizer.trained(TEXTS, 60)


@given(st.text())
def test_any_text_has_pieces_or_is_refused(text: str) -> None:
    try:
        ids = TRAINED.ids(text)
    except InputError:
        return
    assert np.isin(ids, range(1, len(TRAINED.vocabulary))).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("\u200b", "holds no piece"),
        ("\udcff", "is not UTF-8"),
        ("a" * 20_001, "20,001 characters, the limit is 20,000"),
    ],
)
def test_a_text_that_is_none(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        TRAINED.ids(text)


def changed(*path: str, to: Any) -> dict[str, Any]:
    """A description with another value somewhere."""
    described = parse_json(json.dumps(of_words(WORDS)))
    at = described
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = to
    return described


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ([], "no object with a model"),
        ({"model": "BPE"}, "no object with a model"),
        (changed("model", "type", to="Neural"), "its model is Neural"),
        (changed("model", "vocab", to="many"), "no vocabulary"),
        (changed("model", "vocab", to={"a": 2**40, "[UNK]": 0}), "no small whole numbers"),
        (changed("model", "vocab", "dull", to=20), "not 0, 1, 2 and on"),
        (changed("model", "vocab", "dull", to=4), "the tokenizer fails|not 0, 1, 2"),
        ({**bpe(), "model": {**bpe()["model"], "dropout": 0.1}}, "drops merges at random"),
        ({**bpe(), "model": {**bpe()["model"], "merges": [["q", "z"]]}}, "the tokenizer fails"),
        (changed("normalizer", to={"type": "Shell"}), "its normalizer is Shell"),
        (changed("normalizer", to="Lowercase"), "a stage that is no object"),
        (
            changed("pre_tokenizer", to={"type": "Sequence", "pretokenizers": [{"type": "Run"}]}),
            "its pre_tokenizer is Run",
        ),
        (
            changed("normalizer", to={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "fails",
        ),
        (changed("added_tokens", to=7), "added tokens are no list"),
        (changed("added_tokens", to=[{"id": "x"}]), "the tokenizer fails"),
        (changed("version", to="9.9"), "the tokenizer fails"),
    ],
)
def test_a_file_that_is_no_tokenizer(tmp_path: Path, described: Any, says: str) -> None:
    with pytest.raises(ArtifactError, match=f"is no tokenizer to use here .*({says})"):
        Tokenizer.load(saved(tmp_path, described))


def test_a_file_that_is_no_json_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
    path = tmp_path / "tokenizer.json"
    for content in (b"\x80\x02pickled", b'{"model": {"model": NaN}}', b"[" * 10_000, b""):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="is no tokenizer to use here"):
            Tokenizer.load(path)
    path.write_bytes(b" " * (17 << 20))
    with pytest.raises(ArtifactError, match="bytes, the limit is"):
        Tokenizer.load(path)
    monkeypatch.setattr(module, "MOST_PIECES", 6)
    with pytest.raises(ArtifactError, match="more than 6 pieces"):
        Tokenizer.load(saved(tmp_path, of_words(WORDS)))


def test_a_panic_of_the_library_is_an_error() -> None:
    class PanicException(BaseException):
        pass

    def panics() -> None:
        raise PanicException("index out of bounds")

    with pytest.raises(InputError, match="the tokenizer fails: index out of bounds"):
        module._guarded(panics)
    with pytest.raises(KeyboardInterrupt):
        module._guarded(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


def template_of_nothing() -> dict[str, Any]:
    """A mark around a text that is described nowhere."""
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }


PANICS = {
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    "post_processor": template_of_nothing(),
}


@pytest.mark.parametrize("stage", PANICS)
def test_a_panic_of_the_library_is_one_sentence(
    stage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, of_words(["good"], **{stage: PANICS[stage]}))
    with pytest.raises(ArtifactError, match="is no tokenizer to use here"):
        Tokenizer.load(path, template=True)
    assert capfd.readouterr().err == ""
    os.write(2, b"there again")
    assert capfd.readouterr().err == "there again"
