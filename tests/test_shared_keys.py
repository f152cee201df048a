"""Circuits compiled apart that take one set of keys: exact, and refused where keys do not fit."""

from pathlib import Path

import numpy as np
import pytest

from tests.commands import printed, refused
from tests.programs import Builder, every_node
from torusformer import ArtifactError, InputError
from torusformer.fhe_compile import compile_plan, compile_program, plan, save_deployment
from torusformer.fhe_compile.circuit.concrete_options import CompileError
from torusformer.fhe_compile.deployment.shared_keys import SharedKeys, shared_keys
from torusformer.fhe_compile.program.nodes import Linear, Port, Program
from torusformer.fhe_compile.program.onnx_io import save_program
from torusformer.serving import Client, Server


def classifier(size: int, seed: int, high: int = 3) -> Program:
    """A table of `size` numbers under a matrix; its content and the weights by `seed`."""
    rng = np.random.default_rng(seed)
    content = rng.integers(0, 4, high + 1)
    b = Builder(Port("x", (size,), 0, high), Port("y", (2,), 0, 1))
    b.table("act", "act", "x", lambda n: content[np.asarray(n)])
    b.add(Linear("logits", "head", ("act",), rng.integers(-1, 2, (size, 3))))
    return b.program("logits")


def compiled(program: Program, folder: Path, keys: SharedKeys | None = None) -> Path:
    circuit = compile_plan(plan(program), keys=keys and keys.restriction)
    save_deployment(circuit, folder, keys=keys)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    return compiled(classifier(2, 0), tmp_path_factory.mktemp("first") / "deployment")


def test_another_circuit_answers_under_the_first_ones_keys(first: Path, tmp_path: Path):
    client = Client(first)
    sent = client.evaluation_keys()
    program, folder = classifier(3, 1), tmp_path / "second"
    second = Client(compiled(program, folder, shared_keys(first)))
    second.share_keys(client)
    assert second.key_id == client.key_id
    other = Client(compiled(classifier(2, 2), tmp_path / "third", shared_keys(folder)))
    other.share_keys(second)  # keys are named by who took them first
    with Server(folder) as server:
        keys = server.load_keys(sent)
        for x in ([0, 3, 1], [2, 2, 0]):
            inputs = {"x": np.array(x), "y": np.array([0, 1])}
            found = second.decrypt(server.run(second.encrypt(inputs), keys))
            expected = compile_program(program, simulate=True).run(inputs, "disable")
            assert np.array_equal(found["logits"], expected["logits"])


def test_what_does_not_fit_is_refused(first: Path, tmp_path: Path):
    alone = Client(compiled(classifier(2, 5), tmp_path / "alone"))
    with pytest.raises(InputError, match="take different keys; compile one with --keys-of"):
        alone.share_keys(Client(first))
    with pytest.raises(ArtifactError, match="evaluation keys are of another circuit"):
        Server(first).load_keys(alone.evaluation_keys())
    many = compiled(every_node(), tmp_path / "many")
    with pytest.raises(CompileError, match=r"takes 1 of the 3 bootstrap keys of .*many"):
        compiled(classifier(2, 1), tmp_path / "few", shared_keys(many))
    assert not (tmp_path / "few").exists()
    with pytest.raises(CompileError, match="are too narrow for this circuit"):
        compiled(classifier(2, 1, high=255), tmp_path / "wide", shared_keys(first))
    with pytest.raises(ArtifactError, match="is no deployment to take keys of"):
        shared_keys(tmp_path)


def test_the_command(first: Path, tmp_path: Path):
    program = tmp_path / "program.onnx"
    save_program(classifier(2, 7), program)
    out = tmp_path / "second"
    printed("compile", str(program), "--keys-of", str(first), "--out", str(out))
    second = Client(out)
    second.share_keys(Client(first))
    assert "is no deployment" in refused(
        "compile", str(program), "--keys-of", str(tmp_path), "--out", str(tmp_path / "other")
    )
