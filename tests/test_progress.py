"""What a user sees while waiting."""

import io
import time

import pytest

from torusformer import progress
from torusformer.progress import Progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "count")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    stream = io.StringIO()
    with Progress("compile", seconds=40, stream=stream) as waiting:
        assert waiting.state() == "0 s of about 40 s"
        wait_for("compile: 0 s of about 40 s\n", stream)
    assert stream.getvalue().endswith("compile: took 0.0 s\n")


def test_items_give_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with Progress("train", total=4, stream=io.StringIO()) as items:
        monkeypatch.setattr(items, "_start", items._start - 30)
        assert items.state() == "0/4, 30 s"
        items.advance("loss 0.5")
        assert items.state() == "1/4, 30 s, about 90 s left, loss 0.5"


def test_a_terminal_gets_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), Progress("[train]", total=4, stream=stream) as items:
        items.advance("loss [0.5]")
        wait_for("loss [0.5]", stream)
        assert "━" in stream.getvalue()
        assert "[train]" in stream.getvalue()
        raise ZeroDivisionError
    assert "[train]: stopped after" in stream.getvalue().splitlines()[-1]


def wait_for(text: str, stream: io.StringIO) -> None:
    end = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)
