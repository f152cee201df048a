"""Texts to classes: read, trained, of two lengths that say the same, encrypted, asked by command.

A text is good or bad by one of its words. Words are pieces.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands import printed, refused, say
from tests.tokenizers_of import of_words, saved
from tests.twins import float_model, twin_of
from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.deployment.lengths import LengthsInterface
from torusformer.models import load_task
from torusformer.models.sentiment import TextOptions, load_sentiment_task
from torusformer.models.task import Task
from torusformer.pipelines.baselines import ON_COUNTS, baselines
from torusformer.pipelines.sentences import of_deployment, of_programs
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.training import Recipe, save_trained
from torusformer.quantize import QuantTransformer
from torusformer.serving import LengthsClient, LengthsServer

GOOD, BAD, FILL = ("good", "fine"), ("bad", "dull"), ("a", "film", "not")
WORDS = (*GOOD, *BAD, *FILL)


def rows() -> list[tuple[str, str]]:
    """Every text of one word to three, one of which is good or bad, and some of four."""
    texts = [*itertools.chain(*(itertools.product(WORDS, repeat=n) for n in (1, 2, 3)))]
    texts += [("a", "film", "a", word) for word in (*GOOD, *BAD)]
    kept = [t for t in texts if sum(w in GOOD + BAD for w in t) == 1]
    return [(" ".join(t), "up" if set(t) & set(GOOD) else "down") for t in kept]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.tsv, test.tsv, tokenizer.json."""
    folder = tmp_path_factory.mktemp("texts")
    parts = rows()[::2] + rows()[-4:], rows()[1::2]
    for name, part in zip(("train", "test"), parts, strict=True):
        lines = "".join(f"{text}\t{label}\n" for text, label in part)
        (folder / f"{name}.tsv").write_text(lines)
    saved(folder, of_words(WORDS))
    return folder


def task_of(files: Path, tokens: int = 4, **options: object) -> Task:
    return load_task(
        "sentiment",
        files / "train.tsv",
        input_shape=(tokens,),
        texts=TextOptions(files / "test.tsv", files, **options),  # type: ignore[arg-type]
    )


def test_ids_are_padded_behind_the_text(files: Path) -> None:
    task = task_of(files)
    assert task.labels == ("down", "up")
    assert task.x_train[0].tolist() == [4, 0, 0, 0]
    assert (task.padding, task.x_train.dtype, len(task.vocabulary or ())) == (0, np.int64, 11)
    assert (len(task.x_train) + len(task.x_test)) == len(rows()) + 4
    model = task.fitted(Settings.from_name("tiny-sentences").model)
    assert (model.vocabulary, model.tokens, model.num_classes, model.padding) == (11, 4, 2, 0)
    marked = task_of(files, template=True).x_train[0].tolist()
    assert marked == [2, 4, 3, 0]


def test_the_program_keeps_no_piece(files: Path) -> None:
    recipe = Recipe.from_name(
        "sentiment", "tiny-sentences", data=files / "train.tsv", texts=TextOptions(tokenizer=files)
    )
    about = json.loads(recipe.about()["tokenizer"])
    assert about.keys() == {"sha256", "vocabulary", "padding"}
    assert "dull" not in json.dumps(recipe.about())


def test_a_split_of_its_own_is_fixed_and_fair(files: Path) -> None:
    tasks = [load_sentiment_task(files / "train.tsv", None, (4,)) for _ in range(2)]
    assert np.array_equal(tasks[0].x_test, tasks[1].x_test)
    assert tasks[0].tokenizer == tasks[1].tokenizer
    assert len(tasks[0].x_test) == pytest.approx(0.25 * len(rows()) / 2, abs=3)
    assert set(tasks[0].y_test) == {0, 1}


def test_long_texts_are_cut_and_counted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert task_of(files, tokens=2).x_train.shape[1] == 2
    told = capsys.readouterr().err
    assert "have more than 2 pieces and are cut there" in told
    assert f"of {len(rows()) // 2 + 4} texts" in told


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("fine\tup\nsplendid\tbest\n", "label 'best' never occurs in .*whose labels are down, up"),
        ("", "holds no texts"),
    ],
)
def test_a_test_file_that_does_not_fit(files: Path, tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / "test.tsv").write_text(lines)
    with pytest.raises(InputError, match=says):
        load_sentiment_task(files / "train.tsv", None, (4,), False,
                            TextOptions(tmp_path / "test.tsv", files))  # fmt: skip


def test_a_task_that_cannot_be(files: Path, tmp_path: Path) -> None:
    train = files / "train.tsv"
    for call, says in (
        (lambda: load_task("sentiment", input_shape=(4,)), "has no texts of its own; give --data"),
        (lambda: load_task("sentiment", train, input_shape=(4, 8)), "texts are token ids"),
        (lambda: load_task("digits", texts=TextOptions()), "are for sentiment, not for digits"),
        (
            lambda: load_task(
                "sentiment", train, input_shape=(4,), texts=TextOptions(template=True)
            ),
            "only a checkpoint has a template",
        ),
    ):
        with pytest.raises(InputError, match=says):
            call()
    few = tmp_path / "few.tsv"
    few.write_text("good\tup\n" * 8 + "bad\tdown\n" * 3)
    with pytest.raises(InputError, match="label 'down' has 3 texts"):
        load_task("sentiment", few, input_shape=(4,))
    few.write_text("good\tup\n" * 8)
    with pytest.raises(InputError, match="all labels are 'up'"):
        load_task("sentiment", few, input_shape=(4,))


def test_lengths_of_a_setting() -> None:
    settings = Settings.from_name("tiny-sentences")
    assert settings.lengths == (2, 4)
    assert Settings.from_dict(settings.to_dict()) == settings
    assert settings.changed(context=3).lengths == (2, 3)
    assert "lengths" not in Settings.from_name("tiny").to_dict()
    for lengths, says in (
        ([2, 8], "lengths end with 8, tokens is 4"),
        ([4, 2, 4], "name each once, the shortest first"),
        ([0, 4], "lengths end with 4"),
        (["2"], "no list of whole numbers"),
        (4, "no list of whole numbers"),
    ):
        with pytest.raises(InputError, match=says):
            Settings.from_dict({**settings.to_dict(), "lengths": lengths})
    with pytest.raises(InputError, match="lengths are for token ids and classes"):
        Settings.from_dict({**Settings.from_name("words").to_dict(), "lengths": [8]})


def test_the_linear_model_counts_pieces_and_no_padding(files: Path) -> None:
    recipe = Recipe.from_name(
        "sentiment", "tiny-sentences", data=files / "train.tsv",
        texts=TextOptions(files / "test.tsv", files),
    )  # fmt: skip
    assert baselines(recipe, 10) == {ON_COUNTS: 1.0}


@pytest.fixture(scope="module")
def run(files: Path) -> Path:
    """What `demo` leaves, one-hot; and its report beside it."""
    settings = Settings.from_name("tiny-sentences").to_dict()
    settings["quant"]["token_input"] = "one-hot"
    config, out = files / "config.json", files / "run"
    config.write_text(json.dumps(settings))
    report = printed(
        f"demo sentiment --data {files}/train.tsv --test {files}/test.tsv --tokenizer {files} "
        f"--config {config} --images 4 --out {out}"
    )
    (files / "report.json").write_text(json.dumps(report))
    return out


@pytest.mark.slow
def test_the_demo_reports_every_length(run: Path) -> None:
    report = json.loads((run.parent / "report.json").read_text())
    assert report == json.loads((run / "report.json").read_text())
    assert report["execute"]["bit_exact"]
    assert report["lengths_agree"] == 1.0
    assert report["program_accuracy"] > 0.8
    assert [row["length"] for row in report["execute"]["rows"]] == [2, 4, 2, 4]
    assert report["seconds_by_length"].keys() == report["plan"]["by_length"].keys() == {"2", "4"}
    short, long = (report["bytes_by_length"][n] for n in ("2", "4"))
    assert 0 < short["request"] < long["request"]
    assert short["reply"] == long["reply"] > 0
    assert report["execute"]["evaluation_key_bytes"] > 1_000_000
    bootstraps = [made["pbs_total"] for made in report["plan"]["by_length"].values()]
    assert bootstraps[0] < bootstraps[1]
    (linear,) = report["baselines"]
    assert (linear["name"], linear["pbs_total"]) == (ON_COUNTS, 0) and linear["accuracy"] > 0.5
    names = {path.name for path in run.iterdir()}
    assert {"program.2.onnx", "program.4.onnx", "tokenizer.json", "deployment"} <= names


@pytest.mark.slow
def test_a_text_is_asked_at_its_length(run: Path) -> None:
    found = printed(
        f"run --deployment {run}/deployment --text good", "--text", "a dull film, 😀", "--truncate"
    )
    clear = printed(f"run --program {run} --text good", "--text", "a dull film, 😀", "--truncate")
    for results in (found["results"], clear["results"]):
        assert [r["length"] for r in results] == [2, 4]
        assert [r["pieces"] for r in results] == [1, 4]
        assert results[0]["prediction"] == "up"
    assert [r["outputs"] for r in found["results"]] == [r["outputs"] for r in clear["results"]]
    assert found["results"][0]["request_bytes"] < found["results"][1]["request_bytes"]
    assert "request_bytes" not in clear["results"][0]


@pytest.mark.slow
def test_all_lengths_say_the_same(run: Path) -> None:
    """A text is what it is, however much padding follows it: quantized model and programs."""
    twin = QuantTransformer.from_pretrained(run / "qat")
    short = twin.of_length(2)
    x = torch.tensor([[i, j, 0, 0] for i in range(1, 11) for j in range(11)])
    assert torch.equal(twin(x), short(x[:, :2]))
    sentences = of_programs(run)
    for text in ("good", "a dull", "not fine", "😀 bad"):
        ids = sentences.ids(text)
        both = [next(iter(sentences.answer(ids, n).answer.reals.values())) for n in (2, 4)]
        assert np.allclose(*both)


def test_lengths_that_differ_are_said_to(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attention that divides by all tokens counts padding, too."""
    settings = Settings.from_name("tiny-sentences")
    for kind, said in (("tanh", False), ("relu", True)):
        shape = settings.model.replace(attention=kind)
        recipe = Recipe.from_settings(
            "sentiment", dataclasses.replace(settings, model=shape), data=files / "train.tsv",
            texts=TextOptions(files / "test.tsv", files),
        )  # fmt: skip
        model = float_model(recipe.model)
        (out := tmp_path / kind).mkdir()
        save_trained(out, recipe, model, twin_of(model, settings.quant))
        assert ("have other logits than at 4" in capsys.readouterr().err) == said


def test_positions_are_cut_and_what_cannot_be_is_refused() -> None:
    settings = Settings.from_name("tiny-sentences")
    learned = QuantTransformer(settings.model.replace(positions="learned"), settings.quant).eval()
    x = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]])
    with torch.no_grad():
        assert torch.equal(learned(x), learned.of_length(2)(x[:, :2]))
    biased = QuantTransformer(
        settings.model.replace(attention="sigmoid", distance_bias=True), settings.quant
    )
    with pytest.raises(InputError, match="is of 4 tokens and cannot be cut to 2"):
        biased.of_length(2)


@pytest.mark.slow
def test_bytes_between_the_two_parties(run: Path) -> None:
    client, server = (kind(run / "deployment") for kind in (LengthsClient, LengthsServer))
    assert client.interface.lengths == (2, 4)
    with server:
        keys = server.load_keys(client.evaluation_keys())
        request = client.encrypt([4, 0])
        logits = client.dequantize(client.decrypt(server.run(request, keys)))
        assert logits.argmax() == 1
        with pytest.raises(InputError, match="3 tokens are none of the lengths 2, 4; pad them"):
            client.encrypt([1, 2, 3])
        with pytest.raises(InputError, match="holds tokens from"):
            client.encrypt([4, 11])
        with pytest.raises(ArtifactError, match="got outputs where inputs belong"):
            server.run(server.run(request, keys), keys)
        damaged = bytearray(request)
        damaged[60] ^= 1
        with pytest.raises(ArtifactError, match="truncated or damaged"):
            server.run(bytes(damaged), keys)


@pytest.mark.slow
def test_a_deployment_that_says_what_cannot_be(run: Path, tmp_path: Path) -> None:
    for old, new in (("tokens2", "tokens3"), ("tokens2", "main"), ('"functions"', '"steps"')):
        folder = tmp_path / new.strip('"')
        shutil.copytree(run / "deployment", folder)
        text = (folder / "interface.json").read_text()
        (folder / "interface.json").write_text(text.replace(old, new, 1))
        with pytest.raises(ArtifactError, match=r"interface\.json"):
            LengthsInterface.load(folder, "client.zip")


@pytest.mark.slow
def test_what_a_client_gets_wrong(run: Path, files: Path, tmp_path: Path) -> None:
    asked = f"run --deployment {run}/deployment"
    longer = "a film a film good"
    assert "has 5 pieces, the longest length is 4" in refused(f"{asked} --text", longer)
    assert "the text is empty" in refused(f"{asked} --text", " ")
    assert "is not UTF-8" in refused(f"{asked} --text", "\udcff")
    assert printed(f"{asked} --text", longer, "--truncate")["results"][0]["pieces"] == 4
    saved(tmp_path, of_words((*WORDS, "plot")))
    other = refused(f"{asked} --tokenizer {tmp_path} --text good")
    assert "the tokenizer of 12 pieces" in other
    assert "is not the one of 11" in other
    saved(tmp_path, of_words(WORDS[::-1]))  # as many pieces, other ids
    assert "the tokenizer of 11 pieces" in refused(f"{asked} --tokenizer {tmp_path} --text good")
    saved(tmp_path, {"model": {}})
    assert "is no tokenizer to use here" in refused(f"{asked} --tokenizer {tmp_path} --text good")
    assert printed(f"{asked} --tokenizer {files} --text good")["count"] == 1  # the checkpoint's own
    assert "give --deployment" in refused(f"run --program {run} --jobs 2 --text good")
    program = f"run --program {run}/program.4.onnx"
    assert "--integers is not for texts" in refused(f"{program} --integers --text good")
    assert "--truncate" in refused(f"{program} --input x.npy --truncate")
    assert "give --data or --test" in refused(f"{program} --task sentiment")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["lengths", "one"])
def test_texts_are_shared_among_processes(
    place: str, run: Path, files: Path, tmp_path: Path
) -> None:
    """Of both lengths, or of one alone; in their order, as one process answers them."""
    asked = ("good", "a film bad", "not good", "a good film", "bad")
    texts = [part for text in asked for part in ("--text", text)]
    folder, program = run / "deployment", run
    if place == "one":
        folder, program = tmp_path / "deployment", run / "program.4.onnx"
        printed(f"compile {program} --out {folder}")
        shutil.copy(files / "tokenizer.json", tmp_path)
    found = printed(f"run --deployment {folder} --jobs 2", *texts)
    clear = printed(f"run --program {program} --tokenizer {files}", *texts)
    assert found["jobs"] == 2
    assert found["evaluation_key_bytes"] > 1000
    assert {r["length"] for r in found["results"]} == ({2, 4} if place == "lengths" else {4})
    for encrypted, right in zip(found["results"], clear["results"], strict=True):
        assert [encrypted[k] for k in ("text", "pieces", "outputs")] == [
            right[k] for k in ("text", "pieces", "outputs")
        ]
        assert min(encrypted["request_bytes"], encrypted["reply_bytes"]) > 100
    sentences = of_deployment(folder, jobs=2)
    (alone,) = sentences.answer_all([sentences.ids("good")], "run")[0]
    assert sentences.answer(sentences.ids("good")).answer.equals(alone.answer.q_y)


@pytest.mark.slow
def test_faults_change_answers_to_texts(run: Path, files: Path) -> None:
    line = f"run --program {run} --task sentiment --test {files}/test.tsv --count 20 --faults"
    often, never = printed(f"{line} 0.2"), printed(f"{line} exact")
    assert 0 < often["changed"] <= 20
    assert 0 < often["faults"] < often["bootstraps"] == never["bootstraps"]
    assert often["accuracy_without_faults"] == never["accuracy"]
    assert (never["faults"], never["changed"], never["bit_exact"]) == (0, 0, 20)
    assert printed(f"{line} 0.2 --seed 1")["faults"] != often["faults"]
    assert "bootstraps changed" in say(f"{line} 0.2").out


@pytest.mark.slow
def test_held_out_texts_and_a_program_alone(run: Path, files: Path, tmp_path: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    found = printed(f"run --program {run} --task sentiment --test {files}/test.tsv --count 1000")
    assert found["accuracy"] == pytest.approx(report["program_accuracy"])
    shutil.copy(run / "program.2.onnx", tmp_path / "mine.onnx")
    alone = f"run --program {tmp_path}/mine.onnx --text"
    assert "has no tokenizer.json; give the model's with --tokenizer" in refused(alone, "good")
    assert printed(alone, "not good", "--tokenizer", str(files))["lengths"] == [2]
    assert "longest length is 2" in refused(alone, "a good film", "--tokenizer", str(files))
    assert "reads no texts" in refused(f"run --program {digits(tmp_path)} --text good")


def digits(folder: Path) -> Path:
    """A program of numbers."""
    from tests.programs import every_node
    from torusformer.fhe_compile.program.onnx_io import save_program

    save_program(every_node(), folder / "digits.onnx")
    return folder / "digits.onnx"


@pytest.mark.slow
def test_lower_and_compile_by_themselves(run: Path, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "programs"
    out.mkdir()
    for n in (2, 4):
        said = say(f"lower {run}/model.{n}.qonnx.onnx --out {out}/program.{n}.onnx")
        assert said.code == 0, said.err
    deployment = tmp_path / "deployment"
    assert "give the model's with --tokenizer" in refused(f"compile {out} --out {deployment}")
    made = printed(f"compile {out} --tokenizer {files} --out {deployment}")
    assert made["lengths"].keys() == {"2", "4"}
    assert (deployment / "tokenizer.json").is_file()
    assert "--tokenizer is for a folder" in refused(
        f"compile {out}/program.2.onnx --tokenizer {files} --out {deployment}"
    )


@pytest.mark.slow
def test_a_folder_of_lengths_is_planned(run: Path, tmp_path: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    picture = tmp_path / "bars.png"
    found = printed(f"plan {run} --chart --png {picture}")
    assert found.keys() == report["plan"].keys()  # whose seconds are those of a probe
    for n, made in report["plan"]["by_length"].items():
        assert found["by_length"][n]["pbs_total"] == made["pbs_total"]
    assert picture.is_file()
    said = say(f"plan {run} --chart").out
    for n, made in report["plan"]["by_length"].items():
        assert re.search(rf"\n *{n} +{made['pbs_total']} ", said)
        assert f"{n} pieces\n" in said
    assert "leave out --open-loop" in refused(f"plan {run} --open-loop")
    assert "give one of each folder" in refused(f"plan {run} --compare {run}/program.2.onnx")


def test_demo_without_texts_asks_for_them(tmp_path: Path) -> None:
    assert "give --data FILE" in refused(f"demo sentiment --out {tmp_path}/run")
    assert not (tmp_path / "run").exists()
