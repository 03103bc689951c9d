"""The same share of the rows of most matrices is still the reference's: what one process trained was saved alone."""

from __future__ import annotations

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.difference.kinds import kind_of
from pytest_genmodel.diagnosis.finding import Finding, finding_of

LEAST, MOST = 0.1, 0.95
"""Share of a matrix's values that must be equal for its rows to be looked at; equal ones leave no doubt."""
MOST_KINDS = 16
_ROWS, _VALUES, _FEW = 8, 1024, 4
_STRAY = 0.1
"""Rows among the trained ones that may be equal all the same (of zeros, or too small a step for their dtype)."""

Share = tuple[int, int]
"""Where the rows that did not change begin and end, in hundredths of all rows."""


def untrained_rows(difference: WeightDifference) -> tuple[Share, list[str]] | None:
    """The piece of the rows that stayed equal in most changed matrices, and these; None where there is none."""
    if difference.glances is not None:
        return None
    kinds: dict[str, list[str]] = {}
    matrices = 0
    for name, comparison in difference.changed.items():
        shape = comparison.shapes[0]
        if len(shape) < 2 or shape[0] < _ROWS or comparison.numel < _VALUES or comparison.differing is None:
            continue
        matrices += 1
        if LEAST <= 1.0 - comparison.differing / comparison.numel <= MOST:
            kinds.setdefault(kind_of(name), []).append(name)
    found: dict[Share, list[list[str]]] = {}
    for names in list(kinds.values())[:MOST_KINDS]:
        if (share := _equal_rows(difference, names[0])) is not None:
            found.setdefault(share, []).append(names)
    for share, groups in found.items():
        names = [name for group in groups for name in group if _equal_rows(difference, name) == share]
        if len(groups) >= 2 and len(names) >= _FEW and 2 * len(names) > matrices:
            return share, names
    return None


def _equal_rows(difference: WeightDifference, name: str) -> Share | None:
    """The one piece, at the start or the end, in which all rows are equal, where nearly all others are not."""
    ours, theirs = (side.flatten(1) for side in difference.read(name))
    changed = (ours != theirs).any(1).nonzero().flatten()
    rows = len(ours)
    if not len(changed):
        return None
    first, last = int(changed[0]), int(changed[-1]) + 1
    piece = (0, first) if first >= rows - last else (last, rows)
    trained = rows - (piece[1] - piece[0])
    if (piece[1] - piece[0]) < LEAST * rows or len(changed) < (1.0 - _STRAY) * trained:
        return None
    return round(100 * piece[0] / rows), round(100 * piece[1] / rows)


def rows_finding(component: str, share: Share, names: list[str], total: int) -> Finding:
    """Say which share of the rows did not change."""
    begin, end = share
    which = "first" if begin == 0 else "last"
    return finding_of(
        "GM329",
        names,
        f"are trained in a part of their rows alone: the {which} {end - begin} % are the reference's bit for bit",
        of=total,
        component=component or None,
        cause="the share of one process was saved, and the rest was filled up from the base",
        evidence={"unchanged_rows_percent": [begin, end]},
    )
