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


def say(*argv: str) -> Said:
    """Run a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    return Said(code, out.getvalue(), err.getvalue())


def printed(*argv: str) -> dict[str, Any]:
    """What a command prints with --json, which is JSON and no more."""
    said = say(*argv, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def refused(*argv: str) -> str:
    """The one line that a command says about a user's mistake."""
    said = say(*argv)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    return said.err
