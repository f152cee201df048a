"""`distill` of texts: a teacher answers them and more, a student of other pieces learns that."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands import printed, refused
from tests.tokenizers_of import of_words
from torusformer.arrays import read_arrays
from torusformer.models import ModelConfig, Transformer
from torusformer.models.known_words import MEANINGS, mapped_words, meanings
from torusformer.models.sentiment import TextOptions, load_sentiment_task
from torusformer.models.task import Task
from torusformer.models.teacher import Teacher
from torusformer.models.tokenizer import Tokenizer
from torusformer.pipelines.cli import main
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.transfer import answers_of
from torusformer.quantize import QuantConfig, calibrate, to_qat

GOOD, BAD, FILL = ("good", "fine"), ("bad", "dull"), ("a", "film", "not")
UNSEEN = ("quite", "another", "word")
TOKENS = 4


def lines() -> list[str]:
    """Texts of one word to three, one of which is good or bad."""
    words = (*GOOD, *BAD, *FILL)
    texts = itertools.chain(*(itertools.product(words, repeat=n) for n in (1, 2, 3)))
    kept = [t for t in texts if sum(w in GOOD + BAD for w in t) == 1]
    return [f"{' '.join(t)}\t{'up' if set(t) & set(GOOD) else 'down'}\n" for t in kept]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.tsv, dev.tsv, and a teacher that knows more pieces than occur in them."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "train.tsv").write_text("".join(lines()[::2]))
    (folder / "dev.tsv").write_text("".join(lines()[1::2]))
    tokenizer = Tokenizer.trained([*(line.split("\t")[0] for line in lines()), *UNSEEN], 90)
    teacher = folder / "teacher"
    torch.manual_seed(0)
    config = ModelConfig(
        tokens=8, vocabulary=len(tokenizer.vocabulary), hidden=True, padding=tokenizer.padding,
        dim=16, layers=1, heads=2, mlp_dim=16,
    )  # fmt: skip
    Transformer(config).save_pretrained(teacher)
    tokenizer.save(teacher)
    return folder


def marked(teacher: Path, files: Path, tokens: int) -> Task:
    """A task whose checkpoint puts marks around a text, and a teacher of so many tokens."""
    described = of_words([*GOOD, *BAD, *FILL])
    path = teacher / "tokenizer.json"
    path.write_text(json.dumps(described))
    options = TextOptions(files / "dev.tsv", path)
    return load_sentiment_task(files / "train.tsv", None, (tokens,), options=options)


def asked(files: Path, *more: str) -> list[str]:
    return [
        "distill", "--task", "sentiment", "--teacher", str(files / "teacher"),
        "--data", str(files / "train.tsv"), "--test", str(files / "dev.tsv"),
        "--preset", "tiny-sentences", "--stages", "none", *more,
    ]  # fmt: skip


def test_a_student_learns_what_a_teacher_of_more_pieces_says(files: Path) -> None:
    out = files / "student"
    more = ("--epochs", "12", "--teacher-epochs", "12", "--texts", "60", "--out", str(out))
    report = printed(*asked(files, *more))
    stages = {s["stage"]: s["held_out"] for s in report["stages"]}
    assert list(stages) == ["teacher", "float", "qat"]
    assert stages["teacher"] > 0.6 and min(stages["qat"], report["program_accuracy"]) > 0.8
    kept = read_arrays(out / "stages" / "texts" / "answers.npz")
    known = len(lines()[::2])
    assert kept["x"].shape == (known + 60, TOKENS) and kept["answers"].shape == (known + 60, 2)
    assert (kept["y"][known:] == -1).all() and (kept["y"][:known] >= 0).all()
    whole = Tokenizer.load(files / "teacher")
    ours = Tokenizer.load(out)
    assert len(ours.vocabulary) < len(whole.vocabulary)
    float_model = Transformer.from_pretrained(out / "float")
    assert not any("parametrizations" in name for name in float_model.state_dict())
    assert printed(*asked(files, *more))["stages"] == report["stages"]  # done before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": None}, "the teacher pads with token None and the tokenizer with"),
        ({"vocabulary": 9, "padding": 0}, "the teacher's vocabulary has 9 tokens and the token"),
    ],
)
def test_a_teacher_of_another_tokenizer_is_refused(
    files: Path, tmp_path: Path, changes: dict[str, int | None], message: str
) -> None:
    config = Transformer.from_pretrained(files / "teacher").config.replace(**changes)
    Transformer(config).save_pretrained(tmp_path / "other")
    Tokenizer.load(files / "teacher").save(tmp_path / "other")
    args = asked(files, "--out", str(tmp_path / "out"))
    args[args.index("--teacher") + 1] = str(tmp_path / "other")
    assert message in refused(*args)
    assert not (tmp_path / "out").exists()


def test_answers_do_not_depend_on_what_is_asked_together() -> None:
    class Counts(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([(x != 0).sum(1), x.sum(1)], 1).to(torch.float32)

    rng = np.random.default_rng(0)
    x = rng.integers(1, 9, (700, 30)) * (np.arange(30) < rng.integers(1, 31, 700)[:, None])
    wanted = np.stack([(x != 0).sum(1), x.sum(1)], 1)
    np.testing.assert_array_equal(answers_of(Counts(), x, 0), wanted)


def test_words_that_mean_the_same_begin_alike_and_learn_together() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(12, 6)
    embedding[5] = embedding[4] + 0.01 * torch.randn(6)
    words = meanings(embedding, torch.arange(12), padding=0)
    assert words.shape == (12, min(MEANINGS, 6)) and not words[0].any()
    assert float((words[4] - words[5]).norm()) < 0.1 * float((words[4] - words[6]).norm())
    config = ModelConfig(tokens=3, vocabulary=12, num_classes=2, dim=4, heads=1, layers=1)
    student = Transformer(config)
    with mapped_words(student, words):
        optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
        before = student.embed.weight.detach().clone()
        student(torch.full((1, 3), 4)).sum().backward()  # of token 4 alone
        optimizer.step()
        moved = (student.embed.weight.detach() - before).norm(dim=1)
        seen = student.embed.weight.detach().clone()
    assert moved[4] > moved[5] > 0.1 * moved[4]
    assert torch.equal(student.embed.weight, seen)


def test_a_trained_model_is_the_same_when_its_words_are_mapped() -> None:
    torch.manual_seed(0)
    words = meanings(torch.randn(12, 6), torch.arange(12), padding=0)
    config = ModelConfig(
        tokens=3, vocabulary=12, num_classes=2, padding=0, layers=0, pooling="sum", dim=4,
        positions="none", norm="none", activation="hardtanh", window=2, window_dim=3,
    )  # fmt: skip
    student, x = Transformer(config), torch.randint(1, 12, (20, 3))
    twin = to_qat(student, QuantConfig(act_narrow=True, rings={"window": 3}))
    for model in (student, twin):
        calibrate(twin, x)
        before, names = model(x), set(model.state_dict())
        with mapped_words(model, words, trained=True):
            torch.testing.assert_close(model(x), before)
            maps = [name for name in dict(model.named_parameters()) if name.endswith(".map")]
            assert len(maps) == 1
        torch.testing.assert_close(model(x), before)
        assert set(model.state_dict()) == names


def test_a_bag_of_phrases_learns_of_a_teacher(files: Path, tmp_path: Path) -> None:
    settings = Settings.from_name("sentiment-fast")
    model = settings.model.replace(tokens=TOKENS, dim=4, window_dim=3)
    settings = dataclasses.replace(settings, name="bag", model=model, lengths=(2, TOKENS))
    settings.save(tmp_path / "bag.json")
    args = asked(files, "--epochs", "2", "--teacher-epochs", "1", "--texts", "20")
    place = args.index("--preset")
    args[place : place + 2] = ["--config", str(tmp_path / "bag.json")]
    report = printed(*args, "--out", str(tmp_path / "out"))
    assert report["layers"] == {"hidden": [], "attention": []}
    assert report["plan"]["pbs_total"] == 3 * TOKENS
    assert (tmp_path / "out" / "model.2.qonnx.onnx").is_file()


def test_a_teacher_reads_texts_with_the_marks_of_its_checkpoint(files: Path, tmp_path: Path):
    task = marked(tmp_path, files, TOKENS)
    assert task.origin is not None and task.marks == ((2,), (3,))
    config = ModelConfig(
        tokens=TOKENS + 2, vocabulary=11, padding=0, dim=8, layers=1, heads=2, num_classes=2
    )
    torch.manual_seed(0)
    model = Transformer(config).eval()
    x = torch.from_numpy(task.x_train[:6])
    ids = torch.from_numpy(task.origin)[x]
    padded = torch.zeros(6, TOKENS + 2, dtype=torch.int64)
    for row, read in zip(padded, ids, strict=True):
        text = [2, *(int(i) for i in read if i), 3]
        row[: len(text)] = torch.tensor(text)
    teacher = Teacher(model, task)
    assert len({int(n) for n in (ids != 0).sum(1)}) > 1
    assert torch.equal(teacher(x), model(padded))
    short = x[:, : int((ids != 0).sum(1).max())]
    torch.testing.assert_close(teacher(short), teacher(x))
    no_room = Transformer(config.replace(tokens=TOKENS + 1)).eval()
    assert torch.equal(Teacher(no_room, task)(x), no_room(ids))


def test_a_teacher_without_room_for_marks_is_said_to_have_none(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    marked(tmp_path, files, TOKENS)
    for tokens, said in ((TOKENS, 1), (TOKENS + 2, 0)):
        teacher = tmp_path / str(tokens)
        config = ModelConfig(tokens=tokens, vocabulary=11, hidden=True, padding=0, dim=8, layers=1)
        Transformer(config).save_pretrained(teacher)
        shutil.copy(tmp_path / "tokenizer.json", teacher)
        line = asked(files, "--teacher-epochs", "1", "--epochs", "1", "--texts", "1")
        line[line.index("--teacher") + 1] = str(teacher)
        assert main([*line, "--out", str(tmp_path / f"student{tokens}"), "--json"]) == 0
        note = f"import it with --tokens {TOKENS + 2}"
        assert capsys.readouterr().err.count(note) == said
