"""A prompt in, text out, token by token: in the clear, simulated or encrypted, either loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from torusformer import InputError
from torusformer.fhe_compile.circuit.circuit import Module, compile_module
from torusformer.fhe_compile.decoding.decoder import DecoderProgram
from torusformer.fhe_compile.decoding.loop import Cache, Run, write
from torusformer.fhe_compile.decoding.names import FEEDBACK, LOGITS
from torusformer.fhe_compile.decoding.picking import comparable, draw_noise, logits_of, one_hot
from torusformer.fhe_compile.deployment.deployment import save_decoder_deployment
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.models.words import decode, encode
from torusformer.progress import Progress
from torusformer.serving.server import EvaluationKeys
from torusformer.serving.writer import Writer, check_prompt
from torusformer.serving.writing_server import WritingServer
from torusformer.work import scratch_folder


@dataclass(frozen=True)
class Character:
    """One token written: which, as what character, in how many seconds."""

    token: int
    character: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Request:
    """The tokens of a prompt, the mark first, and the noise of each token to write."""

    tokens: tuple[int, ...]
    noises: tuple[IntArray, ...]

    @classmethod
    def of(
        cls, decoder: DecoderProgram, text: str, count: int, temperature: float, seed: int
    ) -> Request:
        """For `count` tokens behind a text; temperature 0 is greedy."""
        tokens = encode(text, decoder.labels)
        check_prompt(tokens, count, decoder.context)
        generator = np.random.default_rng(seed)
        noises = (draw_noise(decoder.noise, temperature, generator) for _ in range(count))
        return cls(tuple(tokens), tuple(noises))


def text_of(characters: Sequence[Character], labels: Sequence[str]) -> str:
    """What was written, up to the first mark."""
    return decode([c.token for c in characters], labels)


def write_clear(
    decoder: DecoderProgram, request: Request, run: Run[IntArray] | None = None
) -> Iterator[Character]:
    """By the interpreter, or by `run` of a function; tokens are picked here if not by a step."""
    run, labels = run or decoder.run, decoder.labels

    def step(cache: Cache[IntArray], noise: IntArray) -> tuple[int, Cache[IntArray]]:
        position = cache.position
        given, cache = cache.step(run, noise)
        if cache.token is not None:
            return int(cache.token.argmax()), cache
        logits = logits_of(decoder.steps[position])
        token = decoder.window.pick(comparable(logits, given[LOGITS]), noise)
        return token, replace(cache, token=one_hot(token, len(labels)))

    prompt = [one_hot(token, len(labels)) for token in request.tokens]
    return timed(write(step, Cache[IntArray]().absorb(run, prompt), request.noises), labels)


def timed(tokens: Iterable[int], labels: Sequence[str]) -> Iterator[Character]:
    """Tokens as they come, each with the seconds that it took."""
    start = time.monotonic()
    for token in tokens:
        yield Character(token, labels[token], time.monotonic() - start)
        start = time.monotonic()


def simulated(module: Module) -> Run[IntArray]:
    """Runs a function of a module without encryption but with its noise."""

    def run(name: str, values: Mapping[str, IntArray]) -> Mapping[str, IntArray]:
        function = module.function(name)
        taken = {port.name: values[port.name] for port in function.program.inputs}
        return function.run(taken, fhe="simulate")

    return run


def compile_decoder(
    decoder: DecoderProgram, p_error: float = EXACT, *, simulate: bool = False, keys: Any = None
) -> Module:
    """One module of all steps, with progress; `keys` as `compile_functions`."""
    with Progress("compile"):
        return compile_module(decoder.functions, FEEDBACK, p_error, simulate, keys=keys)


class EncryptedWriting:
    """Both parties of a deployment in one process; keys are made at once."""

    def __init__(self, folder: Path, trust: Path | None = None) -> None:
        self.client, self.server = Writer(folder, trust), WritingServer(folder, trust)
        start = time.monotonic()
        with Progress("keys"):
            self.client.keygen()
        self.keygen_seconds = time.monotonic() - start
        sent = self.client.evaluation_keys()
        self.key_bytes = len(sent)
        self.keys: EvaluationKeys = self.server.load_keys(sent)

    def write(self, request: Request) -> Iterator[Character]:
        """The server alone or, where it picks no tokens, client and server by turns."""
        return timed(self._tokens(request), self.client.interface.labels)

    def _tokens(self, request: Request) -> Iterator[int]:
        client, picks = self.client, self.client.interface.picks
        written: list[int] = []

        def ask() -> bytes:
            return client.token(len(request.tokens) + len(written) - 1, written[-1])

        message = client.prompt(request.tokens, request.noises if picks else ())
        answers = self.server.write(message, self.keys, ask)
        for noise, answer in zip(request.noises, answers, strict=False):
            written.append(client.pick(client.read(answer), noise))
            yield written[-1]


@contextmanager
def deployed(
    decoder: DecoderProgram, folder: Path | None, p_error: float = EXACT
) -> Iterator[Path]:
    """The folder of a deployment: as given, or a passing one that is compiled now."""
    if folder is not None:
        yield folder
        return
    with scratch_folder() as place:
        made = place / "deployment"
        module = compile_decoder(decoder, p_error)
        save_decoder_deployment(module, made)
        yield made


def require_loop(deployment_picks: bool, wanted: bool, folder: Path) -> None:
    """Refuse a deployment of the other loop."""
    if deployment_picks != wanted:
        has, wants = ("a closed", "open") if deployment_picks else ("an open", "closed")
        raise InputError(
            f"{folder}: is compiled for {has} loop, not for {wants}; ask for the other loop, or "
            "compile the decoder again (compile --open-loop compiles an open one)"
        )
