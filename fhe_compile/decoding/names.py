"""What the values and functions of a decoder's module are called."""

from __future__ import annotations

from collections.abc import Mapping

TOKEN, LOGITS, NOISE, NEXT = "token", "logits", "noise", "next"
FEEDBACK: Mapping[str, str] = {NEXT: TOKEN}  # the output that is the next step's input


def step_name(position: int) -> str:
    """The function of a module that reads one token and answers."""
    return f"step{position}"


def absorb_name(position: int) -> str:
    """The function of a module that reads one token of a prompt."""
    return f"absorb{position}"


def token_name(position: int) -> str:
    """The token at a position, as later steps with a window of neighbours take it."""
    return f"{TOKEN}.{position}"
