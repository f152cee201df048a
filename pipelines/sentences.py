"""Texts in, answers out: the tokenizer, and the shortest of several lengths that a text fits.

The client does this alone: what reaches a server is the ciphertexts of one length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile import Port, Program, load_program
from torusformer.fhe_compile.circuit.circuit import Mode
from torusformer.fhe_compile.deployment.lengths import LengthsInterface
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.folders import is_ours
from torusformer.models.tokenizer import FILE, Tokenizer
from torusformer.pipelines.answers import Answerer, Deployed, Faulty, InProcess, Integers
from torusformer.pipelines.lengths import program_files
from torusformer.pipelines.text_parties import DeployedLength, Parties, Shared, TextAnswer
from torusformer.pipelines.values import to_integers
from torusformer.progress import track
from torusformer.serving import Client, LengthsClient, LengthsServer, Server
from torusformer.strict_json import parse_json

KEY = "tokenizer"  # in a program's metadata
Named = TypeVar("Named")


class Sentences:
    """Answers texts. A length is opened when the first text needs it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        opened: Callable[[int], Answerer],
        programs: Mapping[int, Program] | None = None,
        together: Shared | None = None,
    ) -> None:
        """`opened` gives what answers texts of a length; `programs` are at hand, or not.

        Many texts are answered `together`, where that is given.
        """
        self.programs, self._together = programs or {}, together
        self.tokenizer, self.lengths = tokenizer, tuple(lengths)
        self._open, self._opened = opened, dict[int, Answerer]()

    def of_length(self, length: int) -> Answerer:
        """What answers texts of up to so many pieces."""
        if length not in self._opened:
            self._opened[length] = self._open(length)
        return self._opened[length]

    @property
    def key_bytes(self) -> int | None:
        """Of the evaluation keys, which all lengths share; None where there are none yet."""
        asked = [
            a.key_bytes for a in self._opened.values() if isinstance(a, Deployed | DeployedLength)
        ]
        asked += [self._together.key_bytes] if self._together else []
        return asked[0] if asked else None

    @property
    def jobs(self) -> int:
        """Server processes that share the work."""
        return self._together.jobs if self._together else 1

    def ids(self, text: str, *, truncate: bool = False) -> list[int]:
        """The pieces of a text that fits, or, with `truncate`, those in front."""
        found, longest = self.tokenizer.ids(text), self.lengths[-1]
        if len(found) > longest and not truncate:
            raise InputError(
                f"{shorten(text, 40)!r} has {len(found)} pieces, the longest length is {longest}; "
                f"shorten it, or add --truncate to leave the rest out"
            )
        return found[:longest]

    def length_for(self, pieces: int) -> int:
        """The shortest length that so many pieces fit."""
        return next(length for length in self.lengths if length >= pieces)

    def answer(self, ids: Sequence[int], length: int | None = None) -> TextAnswer:
        """The answer to a text's pieces, by the shortest length that fits or a longer one."""
        length = length or self.length_for(len(ids))
        q_x, answerer = self._integers(ids, length), self.of_length(length)
        if self._together:
            (found,), _ = self._together.answer_all([(length, q_x)], [len(ids)], "run")
            return found
        answer = answerer.answer(q_x)
        if not isinstance(answerer, Deployed | DeployedLength):
            return TextAnswer(len(ids), length, answer)
        sent = answerer.request_bytes, answerer.reply_bytes
        return TextAnswer(len(ids), length, answer, *sent)

    def answer_all(
        self, rows: Sequence[Sequence[int]], label: str
    ) -> tuple[list[TextAnswer], float]:
        """The answers to all, and the seconds that it took, without those of opening lengths."""
        lengths = [self.length_for(len(ids)) for ids in rows]
        if self._together:
            asked = [(n, self._integers(ids, n)) for n, ids in zip(lengths, rows, strict=True)]
            return self._together.answer_all(asked, [len(ids) for ids in rows], label)
        for length in lengths:
            self.of_length(length)
        start = time.monotonic()
        answers = [self.answer(ids) for ids in track(rows, label)]
        return answers, time.monotonic() - start

    def _integers(self, ids: Sequence[int], length: int) -> Integers:
        """A text's pieces, filled up, as the input of a length."""
        (port,) = self.of_length(length).inputs
        (q_x,) = to_integers(port, padded(ids, length, self.tokenizer.padding))
        return {port.name: q_x}


def padded(ids: Sequence[int], length: int, padding: int) -> NDArray[np.int64]:
    """(1, length) ids, filled up at the end."""
    return np.array([[*ids, *[padding] * (length - len(ids))]], np.int64)


def of_deployment(
    folder: Path, trust: Path | None = None, tokenizer: Path | None = None, jobs: int = 1
) -> Sentences:
    """Encrypted, of a deployment of lengths or of one length; `jobs` processes share the texts."""
    if is_of_lengths(folder):
        # What does not fit is refused before any keys are made, which takes long.
        client = LengthsClient(folder, trust)
        interface = client.interface
        ports = {length: interface.input_of(length) for length in interface.lengths}
        known = {n: _Read.of([port], interface.metadata, folder) for n, port in ports.items()}
        found = _tokenizer(tokenizer, next(iter(known.values())), folder)
        if jobs > 1:
            shared = Shared(client, LengthsServer, folder, jobs, trust)
            return Sentences(found, interface.lengths, shared.of_length, together=shared)
        made: list[Parties] = []

        def opened(length: int) -> Answerer:
            made[:] = made or [Parties(client, LengthsServer(folder, trust))]
            return DeployedLength(made[0], length)

        return Sentences(found, interface.lengths, opened)
    alone = Client(folder, trust)
    single = alone.interface
    read = _Read.of([encoded.port for encoded in single.inputs], single.metadata, folder)
    found = _tokenizer(tokenizer, read, folder)
    if jobs > 1:
        shared = Shared(alone, Server, folder, jobs, trust)
        return Sentences(found, [read.tokens], shared.of_length, together=shared)
    return Sentences(found, [read.tokens], lambda _: Deployed(folder, trust))


def is_of_lengths(folder: Path) -> bool:
    """Whether a deployment says that it is of several lengths."""
    return is_ours(folder, LengthsInterface.ARTEFACT)


def of_programs(
    place: Path,
    mode: Mode = "disable",
    p_error: float = EXACT,
    tokenizer: Path | None = None,
    faults: int | None = None,
) -> Sentences:
    """In the clear, simulated or compiled here, of a program or of a folder of `program.8.onnx`.

    With `faults`, the seed of those, in the clear as if bootstraps failed with `p_error`.
    """
    files = program_files(place) if place.is_dir() else {0: place}
    if not files:
        raise ArtifactError(f"{place}: holds no program.8.onnx or of another length; give such")
    programs = {length: load_program(file) for length, file in files.items()}
    known = {n: _Read.of(p.inputs, p.metadata, files[n]) for n, p in programs.items()}
    folder = place if place.is_dir() else place.parent
    found = _tokenizer(tokenizer, next(iter(known.values())), folder)
    programs = _by_length(programs, known, found)

    def opened(length: int) -> Answerer:
        if faults is not None:
            return Faulty(programs[length], p_error, faults)
        return InProcess(programs[length], mode, p_error)

    return Sentences(found, tuple(programs), opened, programs)


def is_sentences(about: Mapping[str, str]) -> bool:
    """Whether a program's metadata is that of one that reads texts."""
    return KEY in about


@dataclass(frozen=True)
class _Read:
    """What a program says of the texts that it reads; `place` is named in errors."""

    tokens: int
    tokenizer: Mapping[str, Any]
    place: Path

    @classmethod
    def of(cls, inputs: Sequence[Port], about: Mapping[str, str], place: Path) -> _Read:
        """InputError for a program of anything else, ArtifactError for one that is not whole."""
        if not is_sentences(about):
            raise InputError(f"{place}: reads no texts; give samples with --input or --task")
        try:
            (port,) = inputs
            wanted = parse_json(about[KEY])
            if int(wanted["vocabulary"]) != port.vocabulary or len(str(wanted["sha256"])) != 64:
                raise ValueError
        except (ValueError, TypeError, KeyError):
            raise ArtifactError(
                f"{place}: its tokenizer is described by {shorten(about[KEY], 60)}; lower the "
                "QONNX file again"
            ) from None
        return cls(int(port.real_shape[-1]), wanted, place)

    def check(self, tokenizer: Tokenizer) -> None:
        """InputError unless it is this tokenizer whose ids it takes."""
        if self.tokenizer == tokenizer.about():
            return
        about, count = tokenizer.about(), int(self.tokenizer["vocabulary"])
        raise InputError(
            f"the tokenizer of {about['vocabulary']:,} pieces ({about['sha256'][:12]}…) is not the "
            f"one of {count:,} ({self.tokenizer['sha256'][:12]}…) that {self.place} was trained "
            "with; give that one with --tokenizer"
        )


def _tokenizer(given: Path | None, first: _Read, folder: Path) -> Tokenizer:
    """The one that is given, or lies beside what is run; a checkpoint's as it was trained with."""
    places = [p / FILE for p in (folder, folder.parent)]
    found = given or next((p for p in places if p.is_file()), None)
    if found is None:
        raise InputError(f"{folder}: has no {FILE}; give the model's with --tokenizer")
    ways = (Tokenizer.load(found, template=template) for template in (True, False))
    matching = next((way for way in ways if way.about() == first.tokenizer), None)
    if matching is None:
        first.check(Tokenizer.load(found, template=True))
    assert matching is not None, "it has just been refused"
    return matching


def _by_length(
    named: Mapping[int, Named], known: Mapping[int, _Read], tokenizer: Tokenizer
) -> dict[int, Named]:
    """By the length that each has, which is the one it is named (0: none), of this tokenizer."""
    found = {}
    for length, read in known.items():
        read.check(tokenizer)
        if length not in (0, read.tokens):
            raise ArtifactError(
                f"{read.place}: takes {read.tokens} pieces, not {length}; make it again"
            )
        found[read.tokens] = named[length]
    return found
