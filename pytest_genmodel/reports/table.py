"""Plain tables that fit a terminal: one column gives way, figures stand under each other.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pytest_genmodel.reports.text import printable

_GAP = 2
_LEAST = 12
"""Columns that the column which gives way keeps."""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    gives_way: int = 0,
    left: Collection[int] = (0,),
    indent: str = "",
) -> list[str]:
    """Lay out `rows` under `head` in lines of at most `width`, as far as that can be.

    Args:
        head: the columns' titles.
        rows: as many cells each; control characters are escaped.
        width: columns of the terminal.
        gives_way: the column that is shortened (in its middle: names differ at their ends) where all do not fit.
        left: columns of words; all others hold figures and stand to the right.
        indent: what every line begins with.
    """
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    excess = len(indent) + sum(widths) + _GAP * (len(widths) - 1) - width
    if excess > 0:
        widths[gives_way] = max(_LEAST, widths[gives_way] - excess)
    lines = []
    for row in cells:
        shown = [shortened(cell, size) for cell, size in zip(row, widths, strict=True)]
        placed = [
            cell.ljust(size) if column in left else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(shown, widths, strict=True))
        ]
        lines.append(f"{indent}{(' ' * _GAP).join(placed)}".rstrip())
    return lines


def shortened(text: str, width: int) -> str:
    """Cut out the middle of a text that is too long; more of its end is kept than of its beginning."""
    if len(text) <= width:
        return text
    end = (width - 2) * 2 // 3
    return f"{text[: width - 2 - end]}..{text[len(text) - end :]}"
