"""JSON from outside in, plain values out: none that Python alone reads, none without end.

Refused beside what is no JSON: NaN and infinity, also as 1e400; a name twice in an object (two
readers may take different ones); whole numbers of more than 19 digits; nesting beyond 100; more
than 16 MiB.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 16 << 20
MAX_DIGITS = 19  # what int64 holds
MAX_DEPTH = 100


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON text; a ValueError that says what is wrong with any other."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text):,} bytes, the limit is {MAX_BYTES:,}")
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    if _depth(value) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    return value


def read_json(path: Path) -> Any:
    """Of a file; a ValueError as `parse_json`, without reading one that is too long."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, the limit is {MAX_BYTES:,}")
    return parse_json(path.read_bytes())


def parse_texts(text: str) -> tuple[str, ...]:
    """A list of texts: labels; a ValueError for anything else."""
    found = parse_json(text)
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise ValueError("no list of texts")
    return tuple(found)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is beyond any float")
    return number


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits, the limit is {MAX_DIGITS}")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _depth(value: Any) -> int:
    """How deep lists and objects lie in each other."""
    level, depth = [value], 0
    children: Callable[[Any], Any] = lambda v: v.values() if isinstance(v, dict) else v  # noqa: E731
    while level := [v for v in level if isinstance(v, list | dict)]:
        depth += 1
        level = [child for v in level for child in children(v)]
    return depth
