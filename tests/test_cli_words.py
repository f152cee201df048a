"""The commands of a decoder: demo, train, plan, compile and generate, and what they refuse."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.commands import printed, refused, say
from torusformer.pipelines.cli import main
from torusformer.versions import installed_versions

WORDS = "anna ann nan nana annan an na nanna aan naa nnaa naan anan nann aana nnna"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "words.txt"
    path.write_text("\n".join(WORDS.split()))
    return path


@pytest.fixture(scope="module")
def demo(data: Path) -> Path:
    """A whole run on three characters and a context of three, closed loop, encrypted."""
    out = data.parent / "run"
    argv = ["demo", "words", "--preset", "tiny-words", "--data", str(data), "--context", "3"]
    argv += ["--epochs", "2", "--prompts", "1", "--tokens", "2", "--p-error", "fast"]
    argv += ["--out", str(out)]  # exact keys take longer: `test_generation`
    assert main(argv) == 0
    return out


@pytest.mark.slow
def test_the_demo_leaves_a_report(demo: Path):
    report = json.loads((demo / "report.json").read_text())
    assert report["program_nll"] == pytest.approx(report["qat_nll"], abs=1e-3)
    assert report["teacher_nll"] > 0
    made = report["generate"]
    assert (made["context"], made["tokens"], made["identical"]) == (3, 2, True)
    assert made["seconds_per_token"] > 0 and made["keygen_seconds"] > 0
    assert made["key_bytes"] == pytest.approx(report["plan"]["key_bytes"], rel=0.5)
    assert len(report["plan"]["steps"]) == 3
    assert report["versions"] == installed_versions()
    assert {p.name for p in demo.iterdir()} >= {"float", "qat", "graphs", "decoder", "deployment"}


@pytest.mark.slow
def test_generate_writes_the_same_in_every_mode(demo: Path):
    common = ("generate", "a", "--model", str(demo), "--count", "2", "--temperature", "1")
    clear = printed(*common)
    assert len(clear["tokens"]) == 2
    for fhe, loop in (
        ("execute", "--closed-loop"), ("simulate", "--closed-loop"), ("disable", "--open-loop"),
    ):  # fmt: skip
        found = printed(*common, "--fhe", fhe, loop)
        assert found["tokens"] == clear["tokens"]
        assert found["identical"]
    by_seed = {seed: tuple(printed(*common, "--seed", str(seed))["tokens"]) for seed in range(12)}
    assert by_seed[0] == tuple(clear["tokens"])
    assert len(set(by_seed.values())) > 1


@pytest.mark.slow
def test_plan_and_compile_take_a_decoder(demo: Path, tmp_path):
    decoder = str(demo / "decoder")
    steps = printed("plan", decoder)["steps"]
    assert [step["position"] for step in steps] == [0, 1, 2]
    open_steps = printed("plan", decoder, "--open-loop")["steps"]
    assert all(one["pbs"] < other["pbs"] for one, other in zip(open_steps, steps, strict=True))
    assert "position" in say("plan", decoder).out
    out, private, ours, theirs = (str(tmp_path / n) for n in ("open", "a.pem", "a.pub", "b.pub"))
    _write_pair(private, ours)
    _write_pair(str(tmp_path / "b.pem"), theirs)
    argv = ("compile", decoder, "--open-loop", "--p-error", "fast", "--out", out, "--sign", private)
    assert not printed(*argv)["closed_loop"]
    argv = ("generate", "a", "--model", str(demo), "--deployment", out, "--fhe", "execute")
    assert "is compiled for an open loop" in refused(*argv, "--count", "1")
    found = printed(*argv, "--open-loop", "--count", "2", "--trust", ours)
    assert found["identical"]
    said = refused(*argv, "--open-loop", "--count", "1", "--trust", theirs)
    assert "was not signed with the key of" in said


def _write_pair(private: str, public: str) -> None:
    key = Ed25519PrivateKey.generate()
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    Path(private).write_bytes(key.private_bytes(*plain))
    in_pem = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    Path(public).write_bytes(key.public_key().public_bytes(*in_pem))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("x",), "'x' is not among the characters of this model: an"),
        (("annaa",), "the prompt has 6 tokens"),
        (("an", "--count", "9"), "at most 1 can be written"),
        (("a", "--temperature", "9", "--count", "1"), "temperature is 9"),
        (("a", "--p-error", "fast"), "nothing is compiled"),
        (("a", "--deployment", "x"), "a deployment only executes"),
        (("a", "--trust", "x"), "--trust is about a signed deployment; give --deployment"),
        (("a", "--model", "nowhere"), "has no decoder.json"),
    ],
)
def test_generate_refuses(demo: Path, extra, message):
    assert message in refused("generate", "--model", str(demo), *extra)


def test_what_no_context_holds_is_refused_before_training(tmp_path, data):
    argv = ("demo", "words", "--preset", "tiny-words", "--data", str(data), "--context", "3")
    said = refused(*argv, "--tokens", "5", "--out", str(tmp_path / "out"))
    assert "at most 3 can be written" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [("plan",), ("compile", "--out", "nowhere")])
def test_an_open_loop_is_a_decoders(argv, tmp_path):
    program = tmp_path / "program.onnx"
    program.touch()
    said = refused(argv[0], str(program), *argv[1:], "--open-loop")
    assert "is no folder of a decoder" in said


def test_train_takes_a_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 8)
    argv = ("train", "--task", "words", "--preset", "tiny-words", "--data", str(text))
    found = printed(*argv, "--context", "3", "--epochs", "1", "--out", str(tmp_path / "t"))
    assert found["qat_nll"] > 0
    written = printed("generate", "to", "--model", str(tmp_path / "t"), "--count", "1")
    assert len(written["tokens"]) == 1


def test_train_words_refuses_what_is_of_digits(tmp_path, data):
    argv = ("train", "--out", str(tmp_path / "out"))
    said = refused(*argv, "--task", "words", "--preset", "tiny")
    assert "give a model of a vocabulary, not of features" in said
    assert "digits-small reads features" in refused(*argv, "--context", "3")
    said = refused(*argv, "--task", "words", "--config", str(data))
    assert "is not a configuration to train" in said
    said = refused("tune", "--out", str(tmp_path / "out"), "--task", "words", "--max-seconds", "5")
    assert "tune searches classifiers, and words foretells tokens" in said
    said = refused("demo", "words", "--out", str(tmp_path / "out"), "--images", "2")
    assert "takes no --images" in said
    assert not (tmp_path / "out").exists()
