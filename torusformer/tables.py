"""Rows in, the text of a table out: the one place where the project prints one."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

WIDEST = 10_000  # cells of a line: none is cut or broken


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Collection[int] = ()
) -> str:
    """Columns as wide as their widest cell; those of numbers, and those in `right`, to the right.

    A cell is anything, or what rich renders: a bar. Empty headings take no line.

    >>> print(table(("layer", "PBS", "bits"), [("score", 64, "3-5"), ("up", 8, "4")], right=[2]))
    layer  PBS  bits
    score   64   3-5
    up       8     4
    """
    from rich.console import Console  # here: a command that prints no table does not wait for it
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(head))
    for i, name in enumerate(head):
        numbers = all(isinstance(row[i], int | float) for row in rows)
        grid.add_column(name, justify="right" if numbers or i in right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(cell if hasattr(cell, "__rich_console__") else str(cell) for cell in row))
    text = io.StringIO()
    console = Console(
        file=text, width=WIDEST, color_system=None, force_jupyter=False, markup=False, emoji=False
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
