"""Encrypted requests shared among server processes, and what is heard of those that fail."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.programs import classifier
from torusformer import ArtifactError, InputError
from torusformer.fhe_compile import compile_program, interpret, save_deployment
from torusformer.pipelines.cli import main
from torusformer.serving import Client, Server, WorkerError, Workers

# Answers that differ, so that a mixed-up order shows.
SAMPLES = [{"x": np.array([[a, b]])} for a, b in ((1, 7), (3, 0), (2, 5))]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "deployment"
    save_deployment(compile_program(classifier()), folder)
    return folder


@pytest.fixture(scope="module")
def client(deployment: Path) -> Client:
    return Client(deployment)


@pytest.fixture(scope="module")
def keys(client: Client) -> bytes:
    return client.evaluation_keys()


def threads_of_a_run(deployment: Path, client: Client, keys: bytes) -> int:
    """Threads that a worker has once it has answered."""
    with Workers(deployment, keys, jobs=1) as workers:
        list(workers.run([client.encrypt(SAMPLES[0])]))
        return len(list(Path(f"/proc/{workers._workers[0].process.inner.pid}/task").iterdir()))


def test_two_workers_answer_three_requests_in_order(
    deployment: Path,
    client: Client,
    keys: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Workers(deployment, keys, jobs=2) as workers:
        assert not list(tmp_path.iterdir())  # the file with the keys is gone
        processes = [worker.process.inner for worker in workers._workers]
        replies = list(workers.run(client.encrypt(q_x) for q_x in SAMPLES))
        again = list(workers.run([client.encrypt(SAMPLES[0])]))
    answers = [client.decrypt(reply.message)["logits"] for reply in [*replies, *again]]
    expected = [interpret(classifier(), q_x)["logits"] for q_x in [*SAMPLES, SAMPLES[0]]]
    assert [a.tolist() for a in answers] == [e.tolist() for e in expected]
    assert len({str(e) for e in expected}) == 3
    assert all(reply.seconds > 0 for reply in replies)
    assert not any(process.poll() is None for process in processes)


def test_a_worker_computes_in_one_thread(
    deployment: Path, client: Client, keys: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this process is told: two more threads here are none more there."""
    counts = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        counts.append(threads_of_a_run(deployment, client, keys))
        assert os.environ["OMP_NUM_THREADS"] == threads
    assert counts[0] == counts[1]


def test_a_worker_tells_what_is_wrong(deployment: Path, client: Client, keys: bytes) -> None:
    good, bad = client.encrypt(SAMPLES[0]), client.encrypt(SAMPLES[1])[:-10]
    with (
        Workers(deployment, keys, jobs=2) as workers,
        pytest.raises(ArtifactError, match="inputs arrived truncated or damaged"),
    ):
        list(workers.run([good, bad, good]))


def test_a_worker_that_dies_is_missed(deployment: Path, client: Client, keys: bytes) -> None:
    request = client.encrypt(SAMPLES[0])
    Server(deployment).run(request, keys)  # from here on Concrete listens to signals
    with Workers(deployment, keys, jobs=1) as workers:
        process = workers._workers[0].process.inner
        process.kill()
        process.wait()
        with pytest.raises(WorkerError, match="worker 1 of 1 ended with exit code -9"):
            list(workers.run([request]))


def test_a_folder_that_no_worker_can_serve(deployment: Path, keys: bytes, tmp_path: Path) -> None:
    copy = shutil.copytree(deployment, tmp_path / "copy")
    (copy / "server.zip").unlink()
    with pytest.raises(ArtifactError, match=r"has no server\.zip"), Workers(copy, keys, jobs=1):
        raise AssertionError("not reached")


def test_at_least_one_worker(deployment: Path, keys: bytes) -> None:
    with pytest.raises(InputError, match="jobs is 0"):
        Workers(deployment, keys, jobs=0)


def test_run_with_jobs_reports_latency_and_throughput(
    deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "q_x.npy", np.concatenate([q_x["x"] for q_x in SAMPLES]))
    argv = ["run", "--deployment", str(deployment), "--input", str(tmp_path / "q_x.npy")]
    argv += ["--integers", "--jobs", "2"]
    assert main([*argv, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    expected = [interpret(classifier(), q_x)["logits"].tolist() for q_x in SAMPLES]
    assert [r["outputs"]["logits"]["integers"] for r in data["results"]] == expected
    assert data["jobs"] == 2
    assert data["seconds_per_input"] == pytest.approx(data["wall_seconds"] / 3, abs=1e-3)
    assert data["latency_seconds"] == sorted(r["seconds"] for r in data["results"])[1]
