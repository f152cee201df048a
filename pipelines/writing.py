"""A prompt in, text out, token by token: in the clear, simulated or encrypted, either loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torusformer import InputError
from torusformer.fhe_compile.circuit.circuit import Module, compile_module
from torusformer.fhe_compile.decoding.closing import comparable, draw_noise, logits_of
from torusformer.fhe_compile.decoding.decoder import DecoderProgram
from torusformer.fhe_compile.decoding.names import (
    FEEDBACK,
    LOGITS,
    NEXT,
    NOISE,
    TOKEN,
    absorb_name,
    step_name,
)
from torusformer.fhe_compile.deployment.decoder import save_decoder_deployment
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.fhe_compile.program.interpret import interpret
from torusformer.fhe_compile.program.nodes import IntArray, Program
from torusformer.models.words import decode, encode
from torusformer.progress import Progress
from torusformer.serving.writer import Writer, check_prompt
from torusformer.serving.writing_server import EvaluationKeys, WritingServer

RunFunction = Callable[[str, Mapping[str, IntArray]], Mapping[str, IntArray]]


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
    decoder: DecoderProgram, request: Request, run: RunFunction | None = None
) -> Iterator[Character]:
    """By the interpreter, or by `run` of a module's function; closed if the decoder is."""
    run = run or interpreter(decoder)
    cache: dict[str, IntArray] = {}
    for position, token in enumerate(request.tokens[:-1]):
        given = run(absorb_name(position), _inputs(decoder.absorbs[position], token, cache))
        cache |= given
    token = request.tokens[-1]
    for i, noise in enumerate(request.noises):
        start, position = time.monotonic(), len(request.tokens) - 1 + i
        program = decoder.steps[position]
        given = dict(run(step_name(position), _inputs(program, token, cache, noise)))
        logits = given.pop(LOGITS)
        picked = given.pop(NEXT, None)
        if picked is None:
            token = decoder.window.pick(comparable(logits_of(program), logits), noise)
        else:
            token = int(picked.argmax())
        cache |= given
        yield Character(token, decoder.labels[token], time.monotonic() - start)


def _inputs(
    program: Program, token: int, cache: Mapping[str, IntArray], noise: IntArray | None = None
) -> dict[str, IntArray]:
    (port,) = (port for port in program.inputs if port.name == TOKEN)
    row = np.eye(port.shape[-1], dtype=np.int64)[[token]]
    values = {**cache, TOKEN: row, **({} if noise is None else {NOISE: noise})}
    return {port.name: values[port.name] for port in program.inputs}


def interpreter(decoder: DecoderProgram) -> RunFunction:
    """Runs a function of a decoder in the clear."""
    functions = decoder.functions()

    def run(name: str, inputs: Mapping[str, IntArray]) -> Mapping[str, IntArray]:
        values = interpret(functions[name], inputs)
        return {port.name: values[port.name] for port in functions[name].outputs}

    return run


def compile_decoder(
    decoder: DecoderProgram, p_error: float = EXACT, *, simulate: bool = False
) -> Module:
    """One module of all steps, with progress."""
    with Progress("compile"):
        return compile_module(decoder.functions(), FEEDBACK, p_error, simulate)


class EncryptedWriting:
    """Both parties of a deployment in one process; keys are made at once."""

    def __init__(self, folder: Path) -> None:
        self.client, self.server = Writer(folder), WritingServer(folder)
        start = time.monotonic()
        with Progress("keys"):
            self.client.keygen()
        self.keygen_seconds = time.monotonic() - start
        sent = self.client.evaluation_keys()
        self.key_bytes = len(sent)
        self.keys: EvaluationKeys = self.server.load_keys(sent)

    def write(self, request: Request) -> Iterator[Character]:
        """Closed: the server alone. Open: the client decrypts logits, picks and encrypts."""
        labels = self.client.interface.labels
        steps = self._closed(request) if self.client.interface.closed else self._open(request)
        start = time.monotonic()
        for token in steps:
            now = time.monotonic()
            yield Character(token, labels[token], now - start)
            start = time.monotonic()

    def _closed(self, request: Request) -> Iterator[int]:
        message = self.client.prompt(request.tokens, request.noises)
        for answer in self.server.write(message, self.keys):
            token = self.client.read(answer).token
            assert token is not None
            yield token

    def _open(self, request: Request) -> Iterator[int]:
        server, client = self.server, self.client
        prompt = server.open(client.prompt(request.tokens))
        cache, sent = server.prefill(prompt, self.keys), None
        for i, noise in enumerate(request.noises):
            answer, cache = server.step(cache, self.keys, token=sent)
            token = client.pick(client.read(answer), noise)
            yield token
            position = len(request.tokens) + i
            if i + 1 < len(request.noises):
                (sent,) = server.open(client.token(position, token)).tokens


@contextmanager
def deployed(
    decoder: DecoderProgram, folder: Path | None, p_error: float = EXACT
) -> Iterator[Path]:
    """The folder of a deployment: as given, or a passing one that is compiled now."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "deployment"
        module = compile_decoder(decoder, p_error)
        save_decoder_deployment(module, decoder.metadata, p_error, made)
        yield made


def require_loop(deployed_closed: bool, closed: bool, folder: Path) -> None:
    """Refuse a deployment of the other loop."""
    if deployed_closed != closed:
        has, wants = ("a closed", "open") if deployed_closed else ("an open", "closed")
        raise InputError(
            f"{folder}: is compiled for {has} loop, not for {wants}; ask for the other loop, or "
            "compile the decoder again (compile --open-loop compiles an open one)"
        )
