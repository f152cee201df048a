"""A program or a deployment in; answers to integer samples out: clear, simulated or encrypted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from torusformer import ArtifactError
from torusformer.fhe_compile import Circuit, Port, Program, compile_program, interpret, plan
from torusformer.fhe_compile.circuit.circuit import Mode
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.fhe_compile.program.nodes import IntArray
from torusformer.fhe_compile.program.ports import dequantize_array
from torusformer.fhe_compile.tfhe.faults import FaultyInterpreter
from torusformer.pipelines.values import to_integers
from torusformer.progress import Progress, track
from torusformer.serving import Client, LengthsClient, Reply, Server, Workers
from torusformer.strict_json import parse_texts

Integers = Mapping[str, IntArray]
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Answer:
    """The output integers of one run, what they mean, and how long the run took."""

    q_y: Integers
    reals: Mapping[str, NDArray[np.float64]]
    prediction: str | None
    seconds: float

    def equals(self, expected: Integers) -> bool:
        """Whether every output integer is the expected one."""
        return all(np.array_equal(self.q_y[name], q_y) for name, q_y in expected.items())

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        outputs = {
            name: {"integers": q_y.tolist(), "reals": np.asarray(self.reals[name]).tolist()}
            for name, q_y in self.q_y.items()
        }
        seconds = round(self.seconds, 4)
        return {"outputs": outputs, "prediction": self.prediction, "seconds": seconds}


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers in the order of their samples, and the seconds from the first to the last."""

    rows: tuple[Answer, ...]
    seconds: float
    jobs: int = 1

    @property
    def seconds_per_input(self) -> float:
        """In throughput terms: the whole time shared out among the inputs."""
        return self.seconds / max(1, len(self.rows))

    def to_json(self) -> dict[str, Any]:
        """How long one input takes to come back, and how long each one takes of a batch."""
        latencies = [answer.seconds for answer in self.rows] or [0.0]
        return {
            "jobs": self.jobs,
            "wall_seconds": round(self.seconds, 4),
            "latency_seconds": round(statistics.median(latencies), 4),
            "seconds_per_input": round(self.seconds_per_input, 4),
        }


class Answerer:
    """What every way of running has in common; subclasses say how integers become integers."""

    def __init__(
        self, inputs: tuple[Port, ...], outputs: tuple[Port, ...], about: Mapping[str, str]
    ) -> None:
        self.inputs, self.outputs, self.about = inputs, outputs, about
        try:
            self._labels = parse_texts(about.get("labels", "[]"))
        except ValueError as error:
            raise ArtifactError(
                f"the program's labels are no list of texts ({error}); lower the QONNX file again"
            ) from None

    def call(self, q_x: Integers) -> Integers:
        """One run on integers of the ports' shapes."""
        raise NotImplementedError

    def answer(self, q_x: Integers) -> Answer:
        """One timed run, dequantized; a classifier's largest logit is named."""
        start = time.monotonic()
        q_y = self.call(q_x)
        return self.meant(q_y, time.monotonic() - start)

    def answer_all(self, samples: Sequence[Integers], label: str) -> Answers:
        """All samples, one after the other unless a subclass knows better."""
        start = time.monotonic()
        rows = tuple(self.answer(q_x) for q_x in track(samples, label))
        return Answers(rows, time.monotonic() - start)

    def meant(self, q_y: Integers, seconds: float) -> Answer:
        """What output integers say, and how long they took."""
        reals = {port.name: dequantize_array(port, q_y[port.name]) for port in self.outputs}
        return Answer(q_y, reals, self._prediction(reals), seconds)

    def _prediction(self, reals: Mapping[str, NDArray[np.float64]]) -> str | None:
        if len(reals) != 1:
            return None
        (logits,) = reals.values()
        index = int(np.argmax(logits))
        named = len(self._labels) == np.size(logits)
        return self._labels[index] if named else str(index)


class InProcess(Answerer):
    """A program interpreted ("disable"), or compiled here and simulated or executed."""

    def __init__(self, program: Program, mode: Mode = "disable", p_error: float = EXACT) -> None:
        super().__init__(program.inputs, program.outputs, program.metadata)
        self.program, self.mode = program, mode
        self._circuit: Circuit | None = None
        if mode != "disable":
            with Progress("compile"):
                self._circuit = compile_program(
                    program, p_error=p_error, simulate=mode == "simulate"
                )
        if self._circuit is not None and mode == "execute":
            with Progress("make keys"):
                self._circuit.keygen()

    def call(self, q_x: Integers) -> Integers:
        """One run on integers of the ports' shapes."""
        if self._circuit is not None:
            return self._circuit.run(q_x, fhe=self.mode)
        values = interpret(self.program, q_x)
        return {port.name: values[port.name] for port in self.outputs}

    def classes(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Index of the largest logit of each sample (N, ...), for one input and one output."""
        (port,), (logits,) = self.inputs, self.outputs
        rows = (self.call({port.name: q_x})[logits.name] for q_x in to_integers(port, x))
        return np.array([dequantize_array(logits, q_y).argmax() for q_y in rows], dtype=np.int64)


class Faulty(Answerer):
    """A program interpreted as if its bootstraps failed with `p_error`; `faults` counts those."""

    def __init__(self, program: Program, p_error: float, seed: int) -> None:
        super().__init__(program.inputs, program.outputs, program.metadata)
        self.p_error, rng = p_error, np.random.default_rng(seed)
        prices = load_prices(p_error=p_error)
        made = plan(program, prices)
        self._interpreter = FaultyInterpreter(made.expanded, p_error, rng)
        self.pbs_total = made.pbs_total
        self.faults = 0

    def call(self, q_x: Integers) -> Integers:
        """One run on integers of the ports' shapes, with faults of its own."""
        run = self._interpreter.run(q_x)
        self.faults += run.faults
        return run.outputs


def make_keys(client: Client | LengthsClient) -> bytes:
    """New keys; the message with those that the server gets."""
    with Progress("make keys"):
        client.keygen()
        message: bytes = client.evaluation_keys()
    return message


def answer_shared(
    workers: Workers,
    requests: Iterable[bytes],
    count: int,
    meant: Callable[[Reply], Found],
    label: str,
) -> tuple[list[Found], float]:
    """What `count` replies mean, in their order; seconds without those of starting `workers`."""
    with ExitStack() as stack:
        with Progress(f"start {workers.jobs} workers"):
            stack.enter_context(workers)
        progress = stack.enter_context(Progress(label, total=count))
        start, found = time.monotonic(), list[Found]()
        for reply in workers.run(requests):
            found.append(meant(reply))
            progress.advance()
        return found, time.monotonic() - start


class _Asking(Answerer):
    """The client's side of a deployment, with fresh keys once `make_keys` was called."""

    def __init__(self, folder: Path, trust: Path | None = None) -> None:
        self.folder, self.trust, self.client = folder, trust, Client(folder, trust)
        interface = self.client.interface
        super().__init__(
            tuple(encoded.port for encoded in interface.inputs),
            tuple(encoded.port for encoded in interface.outputs),
            interface.metadata,
        )

    def make_keys(self) -> bytes:
        """The message with the evaluation keys."""
        return make_keys(self.client)


class Deployed(_Asking):
    """A deployment asked encrypted. Client and server share bytes only, as over a network.

    `request_bytes` and `reply_bytes` are the lengths of the last messages.
    """

    def __init__(self, folder: Path, trust: Path | None = None) -> None:
        super().__init__(folder, trust)
        self.server = Server(folder, trust)
        message = self.make_keys()
        self.request_bytes = self.reply_bytes = 0
        self.key_bytes = len(message)
        self._keys = self.server.load_keys(message)

    def call(self, q_x: Integers) -> Integers:
        """Encrypt, run on the server's side, decrypt."""
        question: bytes = self.client.encrypt(q_x)
        reply: bytes = self.server.run(question, self._keys)
        self.request_bytes, self.reply_bytes = len(question), len(reply)
        return self.client.decrypt(reply)


class DeployedInParallel(_Asking):
    """As `Deployed`, but a batch is shared among `jobs` server processes of one core each."""

    def __init__(self, folder: Path, jobs: int, trust: Path | None = None) -> None:
        super().__init__(folder, trust)
        self.jobs = jobs
        self._message = self.make_keys()
        self.key_bytes = len(self._message)

    def call(self, q_x: Integers) -> Integers:
        """One run, by one worker."""
        (answer,) = self.answer_all([q_x], "run").rows
        return answer.q_y

    def answer_all(self, samples: Sequence[Integers], label: str) -> Answers:
        """All samples; starting the workers is not part of the seconds."""
        jobs = max(1, min(self.jobs, len(samples)))
        workers = Workers(self.folder, self._message, jobs, self.trust)
        requests = (self.client.encrypt(q_x) for q_x in samples)

        def meant(reply: Reply) -> Answer:
            return self.meant(self.client.decrypt(reply.message), reply.seconds)

        rows, seconds = answer_shared(workers, requests, len(samples), meant, label)
        return Answers(tuple(rows), seconds, jobs)
