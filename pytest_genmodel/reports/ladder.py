"""The ladder of learning rates in a terminal: its figures, and how weights and sample drift with the rate.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_genmodel.reports.table import table
from pytest_genmodel.reports.text import WIDTH, fold

MARKS, PLAIN_MARKS = "●○◉·", "w s * ."
"""Weights, sample, both in one place, and the line they stand on; the second for terminals that show ASCII alone."""
DECADE = 4
"""Columns of a factor of ten."""
_COLUMNS = (("rate", "rate"), ("used", "used_rate"), ("a value moves", "step"), ("weights", "weights"))
_SAMPLE = (("latents", "latents"), ("frames", "frames"))


def ladder_lines(verdict: Mapping[str, Any], *, unicode: bool = True) -> Iterator[str]:
    """The table and the plot of a verdict that has a ladder among its measurements; nothing for all others.

    Args:
        verdict: as the report's schema spells it.
        unicode: whether the terminal shows more than ASCII.
    """
    measured = verdict["measurements"]
    rows = measured.get("ladder")
    if verdict["invariant"] != "lr_ladder" or not rows:
        return
    yield ""
    trainer = measured.get("trainer", "trainer")
    yield f"  lr_ladder ({trainer}): how far training moves weights and sample, by its rate"
    columns = (*_COLUMNS, *_SAMPLE)
    cells = [[_number(row[key]) for _, key in columns] for row in rows]
    yield from table([head for head, _ in columns], cells, WIDTH, indent="    ")
    for rate, share in measured.get("coarse", {}).items():
        yield from fold(
            f"moves {share:.1%} of the values that the highest rate moves: the neighbours of the others are further "
            "away than twice the step",
            f"    {rate}: ",
        ).splitlines()
    yield from _plot(rows, MARKS if unicode else PLAIN_MARKS.replace(" ", ""))


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{float(value):.2g}"  # Inf stands in the report as text


def _plot(rows: Sequence[Mapping[str, Any]], marks: str) -> Iterator[str]:
    """A line for each rate above zero; both axes are logarithmic, and in proportion is a slanting line."""
    weights, sample, both, ground = tuple(marks)
    points = [(row["rate"], _drift(row), float(row["latents"])) for row in rows if row["rate"]]
    logs = [math.log10(value) for _, *values in points for value in values if 0 < value < math.inf]
    if not logs:
        return
    first, last = math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1)
    width = (last - first) * DECADE + 1
    axis = "".join(f"1e{power}".ljust(2 * DECADE) for power in range(first, last + 1, 2))
    yield ""
    yield f"    {'rate':<8}{axis}".rstrip()
    for rate, *values in points:
        line = [ground] * width
        places = [_place(value, first, last) for value in values]
        for place, mark in zip(places, (weights, sample), strict=True):
            if place is not None:
                line[place] = mark
        if places[0] is not None and places[0] == places[1]:
            line[places[0]] = both
        yield f"    {rate:<8g}{''.join(line)}"
    yield f"    {weights} weights  {sample} sample (latents)  {both} both"


def _drift(row: Mapping[str, Any]) -> float:
    return float(row["step"] if row["weights"] is None else row["weights"])


def _place(value: float, first: int, last: int) -> int | None:
    if not value > 0:
        return None
    return round((min(max(math.log10(value), first), last) - first) * DECADE)
