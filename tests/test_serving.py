"""Two parties that exchange bytes, and artefacts that are broken or foreign."""

import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.programs import Builder
from torusformer import ArtifactError, InputError
from torusformer.fhe_compile import compile_program, save_deployment
from torusformer.fhe_compile.program.nodes import Linear, Port
from torusformer.serving import Client, Server
from torusformer.serving.messages import pack, unpack


def classifier():
    scale, zero_point = np.array(0.5), np.array(1.0)
    b = Builder(Port("x", (2,), 0, 3, scale, zero_point), Port("y", (2,), 0, 1))
    b.table("act", "act", "x", lambda n: (n * n) % 4)
    b.add(Linear("logits", "head", ("act",), np.array([[1, -1, 2], [-1, 1, 1]])))
    return b.program("logits", labels="a b c")


@pytest.fixture(scope="module")
def program():
    return classifier()


@pytest.fixture(scope="module")
def deployment(program, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "deployment"
    save_deployment(compile_program(program), folder)
    return folder


@pytest.fixture
def copy(deployment, tmp_path) -> Path:
    return shutil.copytree(deployment, tmp_path / "deployment")


@pytest.fixture(scope="module")
def client(deployment, tmp_path_factory) -> Client:
    folder = tmp_path_factory.mktemp("client")  # gets no server.zip
    for name in ("client.zip", "interface.json", "versions.json"):
        shutil.copy(deployment / name, folder)
    return Client(folder)


@pytest.fixture(scope="module")
def server(deployment, tmp_path_factory) -> Server:
    folder = tmp_path_factory.mktemp("server")  # gets no client.zip
    for name in ("server.zip", "interface.json", "versions.json"):
        shutil.copy(deployment / name, folder)
    return Server(folder)


def test_an_encrypted_answer_is_that_of_the_program(program, client, server):
    keys = server.load_keys(client.evaluation_keys())
    inputs = client.quantize({"x": [0.6, -9.0], "y": [0.0, 1.0]})
    assert inputs["x"].tolist() == [2, 0]  # 0.6 / 0.5 + 1 rounds to 2; -9 is clipped
    answer = client.decrypt(server.run(client.encrypt(inputs), keys))
    act = (inputs["x"] ** 2) % 4
    assert np.array_equal(answer["logits"], act @ np.array([[1, -1, 2], [-1, 1, 1]]))
    assert client.dequantize(answer)["logits"].dtype == np.float64
    assert client.labels == {"labels": "a b c"}


def test_the_client_adds_up_an_output_in_parts(tmp_path):
    b = Builder(Port("x", (1, 40), 0, 15))
    b.table("t", "l", "x", lambda n: n // 6)
    weight = np.random.default_rng(0).integers(-7, 8, (40, 2))
    b.add(Linear("y", "l", ("t",), weight))
    circuit = compile_program(b.program("y"))
    (port,) = circuit.encoding.outputs
    assert port.parts > 1 and port.bits < port.port.hi.bit_length()
    save_deployment(circuit, tmp_path / "parts")
    client, server = Client(tmp_path / "parts"), Server(tmp_path / "parts")
    x = np.random.default_rng(1).integers(0, 16, (1, 40))
    reply = server.run(client.encrypt({"x": x}), client.evaluation_keys())
    assert np.array_equal(client.decrypt(reply)["y"], (x // 6) @ weight)
    planned, counted = circuit.plan, circuit.statistics
    assert (planned.request_bytes, planned.reply_bytes) == (
        counted["size_of_inputs"], counted["size_of_outputs"]
    )  # fmt: skip
    assert 0 < len(reply) - planned.reply_bytes < 2_000


def test_a_request_is_short(client):
    """A seed and a number for each ciphertext: a thousandth of the ciphertexts themselves."""
    assert len(client.encrypt({"x": [0, 3], "y": [1, 0]})) < 2_000


def test_messages_for_the_wrong_place_are_refused(client, server):
    request = client.encrypt({"x": np.array([1, 2]), "y": np.array([0, 1])})
    keys = client.evaluation_keys()
    with pytest.raises(ArtifactError, match="got evaluation keys where inputs belong"):
        server.run(keys, keys)
    with pytest.raises(ArtifactError, match="got inputs where evaluation keys belong"):
        server.load_keys(request)
    with pytest.raises(ArtifactError, match="truncated or damaged"):
        server.run(request[:-10], keys)
    with pytest.raises(ArtifactError, match="not a torusformer message"):
        server.run(b"hello", keys)
    with pytest.raises(ArtifactError, match="of another circuit"):
        client.decrypt(pack("outputs", "00" * 32, []))


def test_a_server_takes_no_secret_key(client, server):
    client.keygen()
    secret = pack("evaluation keys", client.interface.circuit_id, [client._inner.keys.serialize()])
    with pytest.raises(ArtifactError, match="not evaluation keys"):
        server.load_keys(secret)


def test_other_keys_have_another_id(deployment, server):
    client = Client(deployment)
    first = client.evaluation_keys()
    assert server.load_keys(first).key_id == client.key_id
    client.keygen(force=True)
    second = client.evaluation_keys()
    assert server.load_keys(second).key_id == client.key_id != server.load_keys(first).key_id


def test_no_file_holds_a_key_or_a_path_of_this_machine(deployment):
    names = {path.name for path in deployment.iterdir()}
    assert names == {"client.zip", "server.zip", "interface.json", "versions.json"}
    assert sum(path.stat().st_size for path in deployment.iterdir()) < 1_000_000
    for archive in ("client.zip", "server.zip"):
        with zipfile.ZipFile(deployment / archive) as contents:
            for name in contents.namelist():
                data = contents.read(name)
                assert str(Path(__file__).parent.parent).encode() not in data
                assert str(Path(sys.prefix)).encode() not in data


def test_the_same_input_never_encrypts_to_the_same_bytes(client):
    inputs = {"x": np.array([1, 2]), "y": np.array([0, 1])}
    assert client.encrypt(inputs) != client.encrypt(inputs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_quantize_wants_numbers(client, bad):
    with pytest.raises(InputError, match="'x' holds NaN or infinity"):
        client.quantize({"x": [bad, 0.0], "y": [0.0, 0.0]})


def test_quantize_wants_the_shape_of_the_port(client):
    with pytest.raises(InputError, match=r"'x' has shape \(3,\), it takes \(2,\)"):
        client.quantize({"x": [0.0, 0.0, 0.0], "y": [0.0, 0.0]})
    with pytest.raises(InputError, match="'x' is ragged"):
        client.quantize({"x": [[0.0], [0.0, 0.0]], "y": [0.0, 0.0]})


def test_encrypt_wants_integers_in_range(client):
    with pytest.raises(InputError, match=r"'x' holds integers in \[1, 4\], it takes \[0, 3\]"):
        client.encrypt({"x": np.array([1, 4]), "y": np.array([0, 1])})


@pytest.mark.parametrize(
    ("side", "archive"), [(Client, "client.zip"), (Server, "server.zip")], ids=["client", "server"]
)
class TestArtefacts:
    def test_truncated(self, copy, side, archive):
        file = copy / archive
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ArtifactError, match=f"{archive}: truncated"):
            side(copy)

    def test_missing(self, copy, side, archive):
        (copy / archive).unlink()
        with pytest.raises(ArtifactError, match=f"has no {archive}"):
            side(copy)

    def test_of_other_versions(self, copy, side, archive):
        path = copy / "versions.json"
        record = json.loads(path.read_text())
        record["versions"]["concrete-python"] = "2.0.0"
        path.write_text(json.dumps(record))
        with pytest.raises(ArtifactError, match=r"made with concrete-python 2\.0\.0"):
            side(copy)

    def test_foreign_folder(self, tmp_path, side, archive):
        with pytest.raises(ArtifactError, match=r"has no versions\.json"):
            side(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "x", "format_version": 1}'])
    def test_foreign_interface(self, copy, side, archive, text):
        (copy / "interface.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"interface\.json"):
            side(copy)


def test_a_server_archive_with_pickled_settings_is_refused(copy):
    archive = copy / "server.zip"
    with zipfile.ZipFile(archive, "a") as contents:
        contents.writestr("circuit.mlir", "module {}")
        contents.writestr("configuration.json", '{"py/object": "builtins.object"}')
    interface = json.loads((copy / "interface.json").read_text())
    interface["sha256"]["server.zip"] = hashlib.sha256(archive.read_bytes()).hexdigest()
    (copy / "interface.json").write_text(json.dumps(interface))
    with pytest.raises(ArtifactError, match="holds a circuit's source"):
        Server(copy)


def test_messages_survive_a_round_trip():
    parts = [b"", b"abc", bytes(1000)]
    assert unpack("inputs", "ab" * 32, pack("inputs", "ab" * 32, parts)) == parts
