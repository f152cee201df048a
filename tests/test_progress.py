"""What a user sees while waiting."""

import io

import pytest

from torusformer import progress
from torusformer.progress import Progress, track


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "count")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    stream = io.StringIO()
    with Progress("compile", seconds=40, stream=stream) as waiting:
        assert waiting.line() == "compile: 0 s of about 40 s"
    assert "compile: took 0.0 s\n" in stream.getvalue()


def test_steps_give_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with Progress("train", total=4, stream=io.StringIO()) as steps:
        monkeypatch.setattr(steps, "_start", steps._start - 30)
        assert steps.line() == "train: 0/4, 30 s"
        steps.advance("loss 0.5")
        assert steps.line() == "train: 1/4, 30 s, about 90 s left, loss 0.5"
