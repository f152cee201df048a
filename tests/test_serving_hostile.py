"""Clients that lie: to the server, whose other clients notice nothing, and about their messages."""

import gc
import hashlib
import os
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import mutants
from tests.programs import Builder, classifier
from torusformer import ArtifactError
from torusformer.fhe_compile import compile_program, interpret, save_deployment
from torusformer.fhe_compile.program.nodes import Port
from torusformer.serving import Client, Server, WorkerError
from torusformer.serving.declared import check_evaluation_keys
from torusformer.serving.messages import KINDS, MAGIC, pack, read_head, unpack

CIRCUIT = "ab" * 32
Q_X = {"x": np.array([[3, 5]])}


@dataclass(frozen=True)
class Parties:
    folder: Path
    server: Server
    one: Client
    other: Client
    expected: list[list[int]]

    def answers(self, client: Client, keys: object) -> bool:
        reply = self.server.run(client.encrypt(Q_X), keys)
        return client.decrypt(reply)["logits"].tolist() == self.expected


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    folder = tmp_path_factory.mktemp("runs") / "deployment"
    save_deployment(compile_program(classifier()), folder)
    one, other = Client(folder), Client(folder)
    one.keygen()
    other.keygen(force=True)
    expected = interpret(classifier(), Q_X)["logits"].tolist()
    with Server(folder) as server:
        yield Parties(folder, server, one, other, expected)


def resealed(message: bytes) -> bytes:
    return message[:-32] + hashlib.sha256(message[:-32]).digest()


@pytest.fixture(scope="module")
def stranger(parties: Parties, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Keys of another circuit under this one's name."""
    folder = tmp_path_factory.mktemp("stranger") / "deployment"
    b = Builder(Port("x", (1, 2), 0, 1))
    b.table("y", "l", "x", lambda n: 1 - n)
    save_deployment(compile_program(b.program("y")), folder)
    client = Client(folder)
    (keys,) = unpack("evaluation keys", client.interface.circuit_id, client.evaluation_keys())
    return pack("evaluation keys", parties.server.interface.circuit_id, [keys])


def test_keys_of_another_circuit_under_this_ones_name_are_refused(
    parties: Parties, stranger: bytes
) -> None:
    living = parties.server.load_keys(parties.other.evaluation_keys())
    with pytest.raises(ArtifactError, match="not evaluation keys of this circuit"):
        parties.server.load_keys(stranger)
    assert parties.answers(parties.other, living)


def test_every_changed_parameter_of_keys_is_found(parties: Parties) -> None:
    """Whatever of the first part is changed, but the padding, is not what the circuit takes."""
    circuit = parties.server.interface.circuit_id
    (keys,) = unpack("evaluation keys", circuit, parties.one.evaluation_keys())
    segments = struct.unpack_from("<4I", keys)
    head = 16 + 8 * segments[1]  # what describes the keys; behind it are only numbers
    refused = 0
    for at in range(0, head, 8):
        changed = bytearray(keys)
        changed[at] ^= 0x11
        try:
            check_evaluation_keys(bytes(changed), parties.server.interface.specification.keyset)
        except ArtifactError:
            refused += 1
    assert refused >= head // 8 * 3 // 4


def test_a_process_that_dies_of_keys_takes_nothing_with_it(
    parties: Parties, stranger: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of another circuit as if nobody had looked at them: Concrete reads past their end."""
    server = parties.server
    living = server.load_keys(parties.other.evaluation_keys())
    with monkeypatch.context() as patch:
        patch.setattr("torusformer.serving.server.check_evaluation_keys", lambda *_: None)
        dying = server.load_keys(stranger)
    with pytest.raises(
        WorkerError, match=r"ended with exit code -\d+ \(SIG.*\) before it answered"
    ):
        server.run(parties.one.encrypt(Q_X), dying)
    with pytest.raises(WorkerError, match="has ended; load the keys again"):
        server.run(parties.one.encrypt(Q_X), dying)
    assert parties.answers(parties.other, living)
    assert parties.answers(parties.one, server.load_keys(parties.one.evaluation_keys()))


def test_what_concrete_would_die_of_ends_a_process_only(parties: Parties) -> None:
    """Past the checks, as bytes that are no keys and no values: the rest is the process's."""
    living = parties.server.load_keys(parties.other.evaluation_keys())
    broken = parties.server.load_keys(parties.one.evaluation_keys())
    with pytest.raises(WorkerError):
        broken.process.ask("main", [b"\xff" * 64])
    with pytest.raises(WorkerError):
        broken.process.ask("no such function", [])
    assert parties.answers(parties.other, living)


def test_an_interrupted_request_is_not_answered_to_the_next(parties: Parties) -> None:
    keys = parties.server.load_keys(parties.one.evaluation_keys())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        os.kill(keys.process.inner.pid, signal.SIGSTOP)  # so that it takes its time
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            parties.server.run(parties.one.encrypt(Q_X), keys)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(WorkerError, match="has ended"):
        parties.server.run(parties.one.encrypt(Q_X), keys)


def test_processes_end_with_their_keys_and_with_the_server(parties: Parties) -> None:
    with Server(parties.folder) as server:
        message = parties.one.evaluation_keys()
        first, second = (server.load_keys(message) for _ in range(2))
        processes = [first.process.inner, second.process.inner]
        del first
        gc.collect()
        assert [process.poll() is None for process in processes] == [False, True]
        server.run(parties.one.encrypt(Q_X), message)  # a process for this one request
    assert all(process.poll() is not None for process in processes)


def test_a_server_leaves_nothing_in_the_temporary_folder(
    parties: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Server(parties.folder) as server:
        keys = server.load_keys(parties.one.evaluation_keys())
        assert not list(tmp_path.iterdir())
        server.run(parties.one.encrypt(Q_X), keys)
    Client(parties.folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["keys", "inputs"])
def test_mutants_of_one_client_are_not_felt_by_the_other(parties: Parties, kind: str) -> None:
    """Thirty with right digests; `python -m tests.fuzz.mutants` runs thousands."""
    living = parties.server.load_keys(parties.other.evaluation_keys())
    outcomes = mutants.attack(parties.server, parties.one, Q_X, kind, count=30, seed=1)
    assert sum(outcomes.values()) == 30
    assert outcomes["ArtifactError"] > 10
    assert set(outcomes) <= {"ArtifactError", "WorkerError", "answered", "died"}
    assert parties.answers(parties.other, living)


def test_the_servers_values_are_checked_by_the_client(parties: Parties) -> None:
    keys = parties.one.evaluation_keys()
    circuit = parties.server.interface.circuit_id
    reply = parties.server.run(parties.one.encrypt(Q_X), keys)
    (value,) = unpack("outputs", circuit, reply)
    with pytest.raises(ArtifactError, match="holds 2 outputs, the circuit gives 1"):
        parties.one.decrypt(pack("outputs", circuit, [value, value]))
    for wrong in (b"", value[:-8], value + bytes(8), value[:8] + b"\xff" * 8 + value[16:]):
        with pytest.raises(ArtifactError, match="not outputs of this circuit"):
            parties.one.decrypt(pack("outputs", circuit, [wrong]))


def test_a_wrong_number_of_keys_is_refused(parties: Parties) -> None:
    circuit = parties.server.interface.circuit_id
    for parts in ([], [b"", b""]):
        with pytest.raises(ArtifactError, match="sets of evaluation keys, not one"):
            parties.server.load_keys(pack("evaluation keys", circuit, parts))


def with_length(index: int, length: int) -> Callable[[bytes], bytes]:
    def change(message: bytes) -> bytes:
        at = len(MAGIC) + 37 + 8 * index
        return resealed(message[:at] + struct.pack("<Q", length) + message[at + 8 :])

    return change


def with_bytes(at: int, data: bytes) -> Callable[[bytes], bytes]:
    def change(message: bytes) -> bytes:
        place = len(MAGIC) + at
        return resealed(message[:place] + data + message[place + len(data) :])

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (with_length(0, 2**63), r"say that part 0 has 9223372036854775808 bytes, 8 are left"),
        (with_length(1, 6), "say that part 1 has 6 bytes, 5 are left"),
        (with_length(1, 4), "have 1 bytes behind their last part"),
        (with_bytes(0, b"\x05"), "of kind 5, this release knows 5"),
        (with_bytes(0, b"\xff"), "of kind 255"),
        (with_bytes(33, b"\xff\xff\xff\xff"), "have 4294967295 parts and end before"),
        (with_bytes(33, b"\x01\0\0\0"), r"behind their last part"),
        (with_bytes(33, b"\0\0\0\0"), r"behind their last part"),
        (lambda m: resealed(m[:-32] + b"more" + m[-32:]), "have 4 bytes behind their last part"),
        (lambda m: m[:30], "truncated or damaged"),
        (lambda m: MAGIC, "truncated or damaged"),
        (lambda m: b"", "not a torusformer message"),
    ],
)
def test_a_malformed_message_is_named(change: Callable[[bytes], bytes], error: str) -> None:
    with pytest.raises(ArtifactError, match=error):
        unpack("inputs", CIRCUIT, change(pack("inputs", CIRCUIT, [b"abc", b"defgh"])))


def test_kinds_that_are_known() -> None:
    assert len(KINDS) == 5


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"tokens": true}',
        b'{"tokens": "1"}',
        b'{"tokens": -1}',
        b'{"tokens": 1e400}',
        b'{"tokens": 99999999999999999999}',
        b'{"tokens": ' + b"9" * 5000 + b"}",
        b'{"other": 1}',
        b" " * (2**20 + 1),
    ],
)
def test_a_head_that_is_none_is_refused(head: bytes) -> None:
    with pytest.raises(ArtifactError, match="have no readable head"):
        read_head("prompt", [head], tokens=int)
    with pytest.raises(ArtifactError, match="have no readable head"):
        read_head("prompt", [], tokens=int)


def test_a_server_keeps_its_speed(parties: Parties) -> None:
    """The keys stay expanded: a second request is not slower than the first by their expansion."""
    keys = parties.server.load_keys(parties.one.evaluation_keys())
    request, seconds = parties.one.encrypt(Q_X), []
    for _ in range(3):
        start = time.monotonic()
        parties.server.run(request, keys)
        seconds.append(time.monotonic() - start)
    assert min(seconds[1:]) < seconds[0]
