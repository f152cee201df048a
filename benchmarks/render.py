"""Rows in, Markdown tables out."""

from __future__ import annotations

from collections.abc import Sequence


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
