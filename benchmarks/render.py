"""Results in, Markdown out: one section a part, with what it shows and how to measure it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.runner import Part

HEAD = """# Benchmarks

Measured by `make bench`, side by side in one run: on {processor}, {threads} threads, {date}, with
{versions}.
Complexity is Concrete's own estimate of the work of one run. Seconds include encryption and
decryption, not key generation.
"""


def document(parts: Sequence[Part], results: Mapping[str, Any]) -> str:
    """The whole `results.md`."""
    about = results["machine"]
    releases = ", ".join(f"{name} {release}" for name, release in results["versions"].items())
    head = HEAD.format(**about, date=results["date"], versions=releases)
    sections = [section(part, results[part.name]) for part in parts if part.name in results]
    return "\n".join([head, *sections])


def section(part: Part, result: Mapping[str, Any]) -> str:
    """Title, sentence, table, and the command that repeats it."""
    measured = result.get("measured", {})
    where = "" if "machine" not in measured else f", on {measured['machine']['processor']}"
    when = f" (measured {measured['date']}{where})" if "date" in measured else ""
    try:
        body = part.render(result)
    except KeyError as error:  # stored before the part changed: no reason to lose the others
        body = f"Measured by an earlier form of this part, which lacks {error}: measure it again."
    lines = [f"## {part.title}", part.shows, body]
    again = f"Again: `make bench ONLY={part.name}`{when}"
    return "\n\n".join([*lines, again]) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers to the right.

    >>> print(table(("what", "PBS"), [("ours", 1124)]))
    | what | PBS |
    |---|---:|
    | ours | 1,124 |
    """
    right = [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(len(head))]
    lines = [head, *([cell(value) for value in row] for row in rows)]
    text = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    rule = "|" + "|".join("---:" if r else "---" for r in right) + "|"
    return "\n".join([text[0], rule, *text[1:]])


def is_number(value: object) -> bool:
    """A count, a measure, or the absence of one."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def cell(value: object) -> str:
    """One value for people.

    >>> [cell(v) for v in (1124, 13.84, 0.0123, 2.4e11, None, True)]
    ['1,124', '13.8', '0.0123', '2.40e+11', '', 'yes']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if abs(value) >= 1e6:
            return f"{value:.2e}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return " ".join(str(value).replace("|", "/").split())


def percent(share: float) -> str:
    """A share for people.

    >>> percent(0.9622)
    '96.2 %'
    """
    return f"{100 * share:.1f} %"
