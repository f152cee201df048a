"""The command line, called in this process."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any, NamedTuple

from torusformer.pipelines.cli import main


class Said(NamedTuple):
    """Exit code of a command and what it printed."""

    code: int
    out: str
    err: str


def say(line: str, *more: str) -> Said:
    """Run a command: a line of words, and arguments that may hold spaces."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*line.split(), *more])
    return Said(code, out.getvalue(), err.getvalue())


def printed(line: str, *more: str) -> dict[str, Any]:
    """What a command prints with --json, which is JSON and no more."""
    said = say(line, *more, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def refused(line: str, *more: str) -> str:
    """The one line that a command says about a user's mistake."""
    said = say(line, *more)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    return said.err
