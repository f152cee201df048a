"""Text in, ids of its pieces out; the tokenizer of a checkpoint, or one trained on texts.

What is applied stands in one `tokenizer.json` of the library `tokenizers`: it adds no marks unless
its template was asked for, cuts nothing and names the piece that fills up short texts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torusformer import ArtifactError, InputError
from torusformer.progress import Progress
from torusformer.strict_json import parse_json, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

FILE = "tokenizer.json"
PADDING, UNKNOWN = "[PAD]", "[UNK]"
_PADDINGS = (PADDING, "<pad>")
MODELS = ("WordPiece", "BPE", "WordLevel", "Unigram")
MOST_PIECES, LEAST_PIECES = 1 << 18, 8
STDERR = 2
LONGEST_TEXT = 20_000  # characters that are handed to the library at once
# Components that are known; a file that names another is refused.
_STAGES: Mapping[str, frozenset[str]] = {
    "normalizer": frozenset(
        {"Sequence", "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Prepend",
         "Precompiled", "Replace", "Strip", "StripAccents", "ByteLevel"}
    ),
    "pre_tokenizer": frozenset(
        {"Sequence", "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace",
         "Punctuation", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"}
    ),
    "post_processor": frozenset(
        {"Sequence", "BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Tokenizer:
    """Pieces of text by number. `text` is the whole of its tokenizer.json, `padding` an id."""

    text: str
    padding: int

    @classmethod
    def load(cls, path: str | Path, *, template: bool = False) -> Tokenizer:
        """Of a checkpoint: its tokenizer.json, or the folder that holds it.

        With `template` a text gets the marks that the checkpoint puts around it, [CLS] and [SEP].

        Raises:
            ArtifactError: the file is missing, too large, no JSON, or no tokenizer that is known.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; give a tokenizer.json or the folder of one")
        try:
            return cls.of(read_json(path), template=template)
        except ValueError as error:
            raise ArtifactError(
                f"{path}: is no tokenizer to use here ({error}); give a tokenizer.json of "
                f"{', '.join(MODELS)}"
            ) from None

    @classmethod
    def of(cls, described: Any, *, template: bool = True) -> Tokenizer:
        """Of what a tokenizer.json holds; ValueError for what is none."""
        described = dict(_checked(described))
        if not template:
            described["post_processor"] = None
        described["truncation"] = None
        named = _padding_name(described)
        library = _library(json.dumps({**described, "padding": None}))
        _guarded(lambda: library.encode(PADDING), quiet=True)  # refused here if it cannot be used
        if library.token_to_id(named) is None:
            library.add_special_tokens([named])
        padding = library.token_to_id(named)
        if library.get_vocab_size() > MOST_PIECES:
            raise ValueError(f"{library.get_vocab_size():,} pieces, the limit is {MOST_PIECES:,}")
        if set(library.get_vocab().values()) != set(range(library.get_vocab_size())):
            raise ValueError("the ids of its pieces are not 0, 1, 2 and on")
        library.enable_padding(pad_id=padding, pad_token=named)
        return cls(library.to_str(), padding)

    @classmethod
    def trained(cls, texts: Sequence[str], pieces: int) -> Tokenizer:
        """WordPiece of at most so many pieces on texts in lower case: the same for the same texts.

        Characters take at most a third of the pieces; a word with another is unknown.
        """
        if not LEAST_PIECES <= pieces <= MOST_PIECES:
            raise InputError(
                f"a tokenizer of {pieces:,} pieces; give from {LEAST_PIECES} to {MOST_PIECES:,}"
            )
        from tokenizers import Tokenizer as Library
        from tokenizers import models, normalizers, pre_tokenizers, trainers

        def fresh(vocabulary: Mapping[str, int] | None = None) -> Library:
            model = models.WordPiece(vocabulary, unk_token=UNKNOWN)
            library = Library(model)
            library.normalizer = normalizers.BertNormalizer()
            library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            return library

        library = fresh()
        with Progress("train a tokenizer", total=len(texts)) as bar:
            counts: Counter[str] = Counter()
            for text in texts:
                counts.update(library.normalizer.normalize_str(text))
                bar.advance()
            alphabet = sorted(_most(counts, (pieces - 2) // 3))
            # Named beforehand, characters get their ids, and ties their order, in every run alike.
            first = [PADDING, UNKNOWN, *alphabet, *(f"##{c}" for c in alphabet)]
            trainer = trainers.WordPieceTrainer(
                vocab_size=pieces,
                special_tokens=first,
                initial_alphabet=alphabet,
                limit_alphabet=len(alphabet),
                show_progress=False,
            )
            library.train_from_iterator(texts, trainer)
        found = fresh(library.get_vocab())
        found.add_special_tokens([PADDING, UNKNOWN])
        return cls.of(parse_json(found.to_str()))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into `folder`."""
        (folder / FILE).write_text(self.text, encoding="utf-8")

    @property
    def digest(self) -> str:
        """SHA-256 of what it does: two tokenizers that differ have different ones."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Piece i by its number."""
        found = self._library.get_vocab()
        return tuple(sorted(found, key=found.__getitem__))

    def about(self) -> dict[str, Any]:
        """What a program keeps of it: not the pieces."""
        size = self._library.get_vocab_size()
        return {"sha256": self.digest, "vocabulary": size, "padding": self.padding}

    def ids(self, text: str) -> list[int]:
        """The pieces of a text; without any, an InputError.

        What no piece stands for becomes the unknown one, if the tokenizer has it: other scripts,
        emoji. The names of special pieces are text like any other.
        """
        if len(text) > LONGEST_TEXT:
            raise InputError(
                f"a text of {len(text):,} characters, the limit is {LONGEST_TEXT:,}; shorten it"
            )
        if not text.strip():
            raise InputError("the text is empty; give one of a word or more")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError("the text is not UTF-8; give it in that encoding")
        found: list[int] = _guarded(lambda: self._library.encode(text).ids)
        if not found:
            raise InputError(f"{_shown(text)} holds no piece that the tokenizer knows; give words")
        return found

    def rows(
        self, texts: Iterable[str], tokens: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids (N, tokens) of texts, padded at the end or cut there, and how long each was (N,)."""
        found = [self.ids(text) for text in texts]
        x = np.full((len(found), tokens), self.padding, np.int64)
        for row, ids in zip(x, found, strict=True):
            row[: len(ids)] = ids[:tokens]
        return x, np.array([len(ids) for ids in found], np.int64)

    @cached_property
    def _library(self) -> Library:
        library = _library(self.text)
        library.no_padding()
        return library


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _most(counts: Counter[str], limit: int) -> list[str]:
    """The most frequent characters that a word may hold, of equal ones the first."""
    known = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    return known[:limit]


def _library(text: str) -> Library:
    """ValueError for what the library does not take."""
    from tokenizers import Tokenizer as Library

    library: Library = _guarded(lambda: Library.from_str(text), quiet=True)
    library.encode_special_tokens = True
    return library


def _guarded(call: Any, *, quiet: bool = False) -> Any:
    """What the library gives; what it raises as an InputError, its panics too.

    Where `quiet`, a panic does not print its trace besides.
    """
    try:
        with _without_stderr() if quiet else nullcontext():
            return call()
    except BaseException as error:
        # A panic of the library is no Exception.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            cause = " ".join(str(error).split())[:200]
            raise InputError(f"the tokenizer fails: {cause}") from None
        raise


@contextmanager
def _without_stderr() -> Iterator[None]:
    """A block in which this process prints nothing there, a library's panics neither."""
    try:
        kept = os.dup(STDERR)
    except OSError:  # it is closed
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


def _checked(described: Any) -> Mapping[str, Any]:
    """A description of kinds that are known; ValueError for any other."""
    if not isinstance(described, dict) or not isinstance(described.get("model"), dict):
        raise ValueError("no object with a model")
    model = described["model"]
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in MODELS:
        raise ValueError(f"its model is {str(kind)[:40]}")
    if not isinstance(model.get("vocab"), dict | list) or len(model["vocab"]) > MOST_PIECES:
        raise ValueError(f"no vocabulary, or one of more than {MOST_PIECES:,} pieces")
    if isinstance(model["vocab"], dict):
        ids = model["vocab"].values()
        if not all(type(i) is int and 0 <= i < 2 * MOST_PIECES for i in ids):
            raise ValueError("the ids of its pieces are no small whole numbers")
    if model.get("dropout"):
        raise ValueError(f"it drops merges at random, dropout {model['dropout']}")
    added = described.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MOST_PIECES:
        raise ValueError("its added tokens are no list, or one without end")
    for stage, known in _STAGES.items():
        for name in _kinds(described.get(stage)):
            if name not in known:
                raise ValueError(f"its {stage} is {name[:40]}")
    return described


def _kinds(component: Any) -> list[str]:
    """What a stage and the stages inside it are called."""
    if component is None:
        return []
    if not isinstance(component, dict):
        raise ValueError("a stage that is no object")
    inner = [
        part for value in component.values() if isinstance(value, list) for part in value
        if isinstance(part, dict) and "type" in part
    ]  # fmt: skip
    return [str(component.get("type")), *(name for part in inner for name in _kinds(part))]


def _padding_name(described: Mapping[str, Any]) -> str:
    """Of the piece that fills up; a new one where there is none."""
    padding = described.get("padding")
    if isinstance(padding, dict) and isinstance(padding.get("pad_token"), str):
        return str(padding["pad_token"])[:100]
    added = described.get("added_tokens") or []
    names = {str(token.get("content")) for token in added if isinstance(token, dict)}
    vocabulary = described["model"]["vocab"]
    if isinstance(vocabulary, dict):
        names |= {name for name in _PADDINGS if name in vocabulary}
    return next((name for name in _PADDINGS if name in names), PADDING)
