"""Deployments that were changed: archives, interface, parameters, signature."""

import hashlib
import io
import json
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz import archives, messages
from tests.programs import classifier
from torusformer import ArtifactError, InputError, TorusformerError
from torusformer.fhe_compile import compile_program, save_deployment
from torusformer.fhe_compile.deployment.security import curve
from torusformer.pipelines.cli import main
from torusformer.serving import Client, Server


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "deployment"
    save_deployment(compile_program(classifier()), folder)
    return folder


@pytest.fixture
def copy(deployment: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(deployment, tmp_path / "deployment"))


def note(folder: Path, archive: str) -> None:
    path = folder / "interface.json"
    data = json.loads(path.read_text())
    data["sha256"][archive] = hashlib.sha256((folder / archive).read_bytes()).hexdigest()
    path.write_text(json.dumps(data))


def repacked(folder: Path, archive: str, name: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(folder / archive) as old:
        members = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_DEFLATED) as new:
        for n, data in members.items():
            new.writestr(n, change(data) if n == name else data)
    note(folder, archive)


def added(folder: Path, archive: str, info: zipfile.ZipInfo, data: bytes) -> None:
    with zipfile.ZipFile(folder / archive, "a") as file:
        file.writestr(info, data, zipfile.ZIP_DEFLATED)
    note(folder, archive)


@pytest.mark.parametrize(
    "name",
    [
        "./configuration.json",
        ".//circuit.mlir",
        "configuration.json",
        "../sharedlib.so",
        "/sharedlib.so",
        "x/../sharedlib.so",
        "sharedlib.so/",
        "more",
    ],
)
def test_a_member_that_no_deployment_has_is_refused(copy: Path, name: str) -> None:
    for archive, side in (("server.zip", Server), ("client.zip", Client)):
        added(copy, archive, zipfile.ZipInfo(name), b'{"py/object": "builtins.object"}')
        with pytest.raises(
            ArtifactError, match=r"which no deployment has|holds a circuit's source"
        ):
            side(copy)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(copy: Path) -> None:
    added(copy, "server.zip", zipfile.ZipInfo("sharedlib.so"), b"other")
    with pytest.raises(ArtifactError, match=r"holds 'sharedlib\.so' twice"):
        Server(copy)


def test_a_link_is_refused(copy: Path) -> None:
    with zipfile.ZipFile(copy / "client.zip", "w") as file:
        info = zipfile.ZipInfo("client.specs.json")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    note(copy, "client.zip")
    with pytest.raises(ArtifactError, match="is not a plain file"):
        Client(copy)


def test_a_bomb_is_refused_before_it_is_unpacked(copy: Path) -> None:
    with zipfile.ZipFile(copy / "client.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("client.specs.json", bytes(2**28 + 1))
    note(copy, "client.zip")
    with pytest.raises(ArtifactError, match="unpacks to 268435457 bytes, the limit is 268435456"):
        Client(copy)


def test_a_member_longer_than_it_says_is_refused(copy: Path) -> None:
    file = copy / "client.zip"
    data = io.BytesIO(file.read_bytes())
    with zipfile.ZipFile(data) as archive:
        size = archive.getinfo("client.specs.json").file_size
    changed = data.getvalue().replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert changed != data.getvalue()
    file.write_bytes(changed)
    note(copy, "client.zip")
    with pytest.raises(ArtifactError, match=r"not an archive of ours|has not 10 bytes"):
        Client(copy)


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (put("inputs", 0, "base", value=-1), "'x' with a base other than its least integer, 0"),
        (put("inputs", 0, "bits", value=4), "'x' with other bits, shift or parts than an input"),
        (put("inputs", 0, "shift", value=1), "'x' with other bits, shift or parts than an input"),
        (put("inputs", 0, "parts", value=2), "'x' with other bits, shift or parts than an input"),
        (put("inputs", 0, "lo", value=8), "'x' with lo 8 above hi 7"),
        (put("inputs", 0, "hi", value=2**63), "'x' with hi 9223372036854775808, not from"),
        (put("inputs", 0, "shape", value=[2, 1]), r"'x' of shape \(2, 1\), compiled with \[1, 2\]"),
        (put("inputs", 0, "shape", value=[2**31, 2**31]), "'x' of shape"),
        (put("inputs", 0, "scale", value=0), "'x' with a scale that is not positive"),
        (put("inputs", 0, "scale", value="1"), "'x' with scale of other than finite numbers"),
        (put("inputs", 0, "scale", value=[1, 1, 1]), "not an interface of ours"),
        (put("inputs", value=[]), "0 inputs and 1 outputs of main"),
        (
            put("outputs", 0, "base", value=-(2**40)),
            "'logits' with a base and a shift that begin at",
        ),
        (put("outputs", 0, "bits", value=9), "'logits' of 9 bits, compiled with"),
        (put("outputs", 0, "parts", value=3), "'logits' of shape"),
        (put("p_error", value=2), "p_error 2, which is no probability"),
        (put("metadata", "labels", value=3), "metadata that is not text"),
        (put("sha256", "client.zip", value="../x"), "a checksum that is none"),
    ],
)
def test_an_interface_that_does_not_fit_the_circuit_is_refused(
    copy: Path, change: Callable[[Any], None], error: str
) -> None:
    path = copy / "interface.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=error):
        Client(copy)


@pytest.mark.parametrize(
    "text",
    ["NaN", "[" * 100_000, '{"format": NaN}', "1" * 6000, "\ud83d".encode("utf-8", "replace")],
)
def test_an_interface_that_is_no_json_is_refused(copy: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (copy / "interface.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"interface\.json"):
        Client(copy)


def weaker(what: str, change: Callable[[Any], None]) -> Any:
    return pytest.param(change, what, id=what)


KEYS = ("keyset", "lweBootstrapKeys", 0, "params"), ("keyset", "lweKeyswitchKeys", 0, "params")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        weaker("BootstrapKey 0 has noise of variance 0 ", put(*KEYS[0], "variance", value=0)),
        weaker("KeyswitchKey 0 has noise of variance 1e-99", put(*KEYS[1], "variance", value=1e-99)),  # noqa: E501
        weaker(
            "input 0 of main has noise of variance 0 ",
            put("circuits", 0, "inputs", 0, "typeInfo", "lweCiphertext", "encryption", "variance",
                value=0.0),
        ),
    ],
)  # fmt: skip
def test_keys_that_protect_nothing_are_not_made(
    copy: Path, change: Callable[[Any], None], what: str
) -> None:
    def changed(data: bytes) -> bytes:
        specification = json.loads(data)
        change(specification)
        return json.dumps(specification).encode()

    repacked(copy, "client.zip", "client.specs.json", changed)
    with pytest.raises(ArtifactError, match=what) as error:
        Client(copy)
    assert "128-bit security needs" in str(error.value)


def test_a_short_secret_key_is_refused(copy: Path) -> None:
    def changed(data: bytes) -> bytes:
        short = json.loads(data)["keyset"]["lweKeyswitchKeys"][0]["params"]["outputLweDimension"]
        return data.replace(f": {short}".encode(), b": 400")

    repacked(copy, "client.zip", "client.specs.json", changed)
    with pytest.raises(ArtifactError, match="secret key of 400 bits, 128-bit security needs 450"):
        Client(copy)


def test_the_curve_is_the_one_that_concrete_chooses_by(deployment: Path) -> None:
    """Its optimizer adds the least noise that is allowed."""
    for key in Client(deployment).interface.specification.keyset.evaluation:
        least = curve().least_variance(key.params.output_dimension)
        assert key.params.variance == pytest.approx(least, rel=1e-6)


def test_a_specification_that_contradicts_itself_is_refused(copy: Path) -> None:
    def changed(data: bytes) -> bytes:
        specification = json.loads(data)
        specification["keyset"]["lweSecretKeys"][0]["params"]["lweDimension"] = 1024
        return json.dumps(specification).encode()

    repacked(copy, "client.zip", "client.specs.json", changed)
    with pytest.raises(ArtifactError, match=r"contradicts itself: .* secret key of another length"):
        Client(copy)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """As docs/security.md says to make them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        commands = (
            ["genpkey", "-algorithm", "ed25519", "-out", f"{name}.pem"],
            ["pkey", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub"],
        )
        for command in commands:
            subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder / "ours", folder / "theirs"


@pytest.fixture(scope="module")
def signed(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "deployment"
    save_deployment(compile_program(classifier()), folder, pair[0].with_suffix(".pem"))
    return folder


def test_a_signed_deployment_is_taken_from_whom_one_trusts(
    signed: Path, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = (path.with_suffix(".pub") for path in pair)
    Client(signed, trust=ours)
    Server(signed, trust=ours).close()
    with pytest.raises(ArtifactError, match=r"manifest\.json: was not signed with the key of"):
        Client(signed, trust=theirs)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(ours)]
    command += ["-sigfile", str(signed / "manifest.sig"), "-in", str(signed / "manifest.json")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    np.save(tmp_path / "x.npy", np.array([[1, 2]]))
    argv = ["run", "--deployment", str(signed), "--input", str(tmp_path / "x.npy"), "--integers"]
    assert main([*argv, "--trust", str(ours)]) == 0
    assert main([*argv, "--trust", str(theirs)]) == 2
    assert main([*argv, "--trust", str(tmp_path / "none")]) == 2
    assert "was not signed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["interface.json", "client.zip", "server.zip", "manifest.json", "manifest.sig"]
)
def test_one_changed_bit_breaks_the_signature(
    signed: Path, pair: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    copy = Path(shutil.copytree(signed, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    if name.endswith(".zip"):
        note(copy, name)
    for side in (Client, Server):
        with pytest.raises(ArtifactError):
            side(copy, trust=pair[0].with_suffix(".pub"))


def test_without_a_manifest_nothing_is_trusted(deployment: Path, pair: tuple[Path, Path]) -> None:
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        Client(deployment, trust=pair[0].with_suffix(".pub"))


@pytest.mark.parametrize("data", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n", bytes(2**17)])
def test_a_file_that_is_no_key_is_refused(deployment: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(InputError, match=str(tmp_path / "key")):
        Client(deployment, trust=tmp_path / "key")
    with pytest.raises(InputError, match=str(tmp_path / "key")):
        save_deployment(compile_program(classifier()), tmp_path / "d", tmp_path / "key")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("kind", "count"), [(archives, 100), (messages, 400)])
def test_hostile_archives_and_messages_are_read_or_refused(
    kind: Any, count: int, tmp_path: Path
) -> None:
    outcomes = {"read": 0, "refused": 0}
    for seed in range(count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            kind.make(seed, folder).run()
            outcomes["read"] += 1
        except TorusformerError:
            outcomes["refused"] += 1
        shutil.rmtree(folder)
    assert min(outcomes.values()) > count // 20
