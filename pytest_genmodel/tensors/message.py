"""The failure message: what differs, where, what it looks like, what to do. The only place that builds it.

Written for somebody who has just been woken up: one sentence first, then aligned facts, no more digits than needed.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .smallest import NO_TOLERANCE, short, smallest_for_all
from .tolerance import Bitwise, Close, Cosine, Psnr

if TYPE_CHECKING:
    from .comparison import Axis, Comparison, Nonfinite, Worst

Labels = tuple[str, str]
LABELS: Labels = ("actual", "expected")

_WIDTH = 108
_MOST_AXES, _MOST_RANGES = 4, 4
_MOST_ULPS = 10**4


def describe(comparison: Comparison, labels: Labels = LABELS, *, where: str = "") -> str:
    """The whole message, about 12 lines of ASCII text; `where` (an id path, a tensor name) opens it."""
    opening = f"{where}: " if where else ""
    rows = [opening + headline(comparison, labels)]
    facts = [(title, _relabel(text, labels)) for title, text in _facts(comparison)]
    margin = max((len(title) for title, _ in facts), default=0) + 2
    for title, text in facts:
        lines = textwrap.wrap(
            text, max(40, _WIDTH - margin - 2), break_long_words=False, break_on_hyphens=False
        )
        rows += [f"  {title if first else '':<{margin}}{line}" for first, line in _with_first(lines)]
    return "\n".join(_ascii(row) for row in rows)


def headline(comparison: Comparison, labels: Labels = LABELS) -> str:
    """The first sentence: what is wrong and against which limit."""
    actual, expected = labels
    if comparison.passed:
        what = "are equal" if not comparison.differing else f"agree within {comparison.tolerance}"
        return f"{actual} and {expected} {what}"
    if comparison.problem == "shape":
        return f"shapes differ: {actual} {comparison.shapes[0]}, {expected} {comparison.shapes[1]}"
    if comparison.problem == "meta":
        return f"{actual} and {expected} cannot be compared"
    if comparison.problem == "dtype":
        return f"dtypes differ: {actual} {comparison.dtypes[0]}, {expected} {comparison.dtypes[1]}"
    if comparison.problem == "device":
        return f"devices differ: {actual} on {comparison.devices[0]}, {expected} on {comparison.devices[1]}"
    return f"{actual} and {expected} differ: {_values_headline(comparison)}"


def brief(comparison: Comparison) -> str:
    """One short line for a list of many mismatches."""
    if comparison.problem in ("shape", "dtype", "device", "meta"):
        return headline(comparison)
    parts = [_share(comparison)]
    if comparison.problem == "nonfinite":
        parts.append("NaN or Inf")
    elif comparison.max_abs is not None and comparison.relative_difference is not None:
        parts.append(f"max abs {number(comparison.max_abs)}")
        parts.append(f"difference {percent(comparison.relative_difference)} of the norm")
    if comparison.likeness is not None:
        parts.append(comparison.likeness.kind)
    return ", ".join(parts)


def number(value: float) -> str:
    """Three significant digits, without an exponent up to a million."""
    return f"{float(f'{value:.3g}'):.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{number(100.0 * share)}%"


def _values_headline(comparison: Comparison) -> str:
    tolerance = comparison.tolerance
    if comparison.problem == "nonfinite":
        return f"NaN or Inf does not match: {_share(comparison)} are wrong"
    if isinstance(tolerance, Psnr) and comparison.psnr is not None:
        return f"psnr {comparison.psnr:.4g} dB is below {tolerance.db:g} dB (peak {tolerance.peak:g})"
    if isinstance(tolerance, Cosine) and comparison.cosine is not None:
        return f"cosine {comparison.cosine:.6g} is below {tolerance.minimum:g}"
    if isinstance(tolerance, Bitwise):
        return f"{_share(comparison)} differ in their bits"
    return f"{_share(comparison)} are beyond {tolerance}"


def _share(comparison: Comparison) -> str:
    count, numel = comparison.mismatched or 0, comparison.numel
    if count == numel:
        return f"all {numel} elements"
    return f"{count} of {numel} elements ({percent(count / numel)})"


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """(title, text) rows; texts say actual and expected, whatever the labels."""
    if comparison.problem != "shape":
        yield "tensors", _tensors(comparison)
    if any(side.nan or side.inf for side in comparison.nonfinite):
        yield (
            "NaN, Inf",
            "; ".join(
                f"{label} {_nonfinite(side, comparison.names)}"
                for label, side in zip(LABELS, comparison.nonfinite, strict=True)
            ),
        )
    if comparison.problem in ("dtype", "device"):
        yield "values", _values(comparison)
    if comparison.worst is not None:
        yield "worst", _worst(comparison.worst, comparison)
    if comparison.max_abs:
        yield "overall", _overall(comparison)
    for axis in _telling_axes(comparison):
        yield axis.name, _axis(axis)
    if comparison.note is not None:
        yield "note", comparison.note
    if comparison.likeness is not None:
        yield "looks like", comparison.likeness.text
        yield "hint", comparison.likeness.hint
    if not comparison.passed:
        yield "would pass", would_pass(comparison)


def _tensors(comparison: Comparison) -> str:
    dtypes, devices = comparison.dtypes, comparison.devices
    dtype = dtypes[0] if dtypes[0] == dtypes[1] else f"{dtypes[0]} and {dtypes[1]}"
    device = devices[0] if devices[0] == devices[1] else f"{devices[0]} and {devices[1]}"
    return f"{comparison.shapes[0]} {dtype}, {device}"


def _worst(worst: Worst, comparison: Comparison) -> str:
    actual, expected = distinct(worst.actual, worst.expected)
    text = f"at {place(worst.index, comparison.names)}: actual {actual}, expected {expected}"
    if worst.difference == 0.0 or not math.isfinite(worst.difference):
        return text
    text += f"; {number(worst.difference)} apart"
    tolerance = comparison.tolerance
    if isinstance(tolerance, Close):
        limit = (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * abs(worst.expected)
        times = (
            f", {number(worst.difference / limit)} times the limit of {number(limit)} there" if limit else ""
        )
        return text + (times if worst.difference > limit else "")
    return text


def _values(comparison: Comparison) -> str:
    if not comparison.differing:
        return "equal"
    if not comparison.mismatched:
        return f"within {comparison.tolerance}"
    return f"{_share(comparison)} beyond {comparison.tolerance}"


def _overall(comparison: Comparison) -> str:
    parts = []
    for title, value in (
        ("max abs", comparison.max_abs),
        ("max rel", comparison.max_rel),
        ("rms", comparison.rms),
    ):
        if value is not None:
            parts.append(f"{title} {number(value)}")
    if comparison.max_ulp is not None and comparison.max_ulp <= _MOST_ULPS:
        parts.append(f"max {comparison.max_ulp} ULP")
    if comparison.relative_difference is not None and comparison.relative_norm_change is not None:
        parts.append(f"difference {percent(comparison.relative_difference)} of the norm")
        parts.append(f"norm changed by {percent(comparison.relative_norm_change)}")
    return ", ".join(parts)


def _telling_axes(comparison: Comparison) -> list[Axis]:
    """Axes on which some places are equal; with names, short axes on which the difference varies too."""
    if comparison.mismatched == 1:
        return []  # the worst element is the only one, and its place is known
    axes = [axis for axis in comparison.axes if axis.equal]
    if not axes and comparison.names:
        axes = [axis for axis in comparison.axes if min(axis.max_abs) < 0.5 * max(axis.max_abs)]
    return axes[:_MOST_AXES]


def _axis(axis: Axis) -> str:
    largest = max(range(axis.size), key=axis.max_abs.__getitem__)
    if not axis.equal:
        least = min(range(axis.size), key=axis.max_abs.__getitem__)
        return (
            f"all {axis.size} differ: max abs {number(axis.max_abs[largest])} at {largest}, "
            f"{number(axis.max_abs[least])} at {least}"
        )
    text = f"{_ranges(axis.differing)} differ; {_ranges(axis.equal)} equal"
    return text if sum(map(bool, axis.mismatched)) == 1 else f"{text}; largest at {largest}"


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    shown = [f"{first}..{last}" if last > first else f"{first}" for first, last in ranges[:_MOST_RANGES]]
    if len(ranges) > _MOST_RANGES:
        rest = sum(last - first + 1 for first, last in ranges[_MOST_RANGES:])
        shown.append(f"{rest} more")
    return ", ".join(shown)


def _nonfinite(side: Nonfinite, names: tuple[str, ...]) -> str:
    parts = []
    for count, first, what in ((side.nan, side.first_nan, "NaN"), (side.inf, side.first_inf, "Inf")):
        if count and first is not None:
            parts.append(f"{count} {what} (first at {place(first, names)})")
    return " and ".join(parts) or "none"


def place(index: tuple[int, ...], names: tuple[str, ...] = ()) -> str:
    """An index for people: ``[frame 5, channel 0]``, or ``[5, 0]`` without names."""
    if not index:
        return "the only element"
    return (
        "[" + ", ".join(f"{name} {at}" for name, at in zip(names, index, strict=True)) + "]"
        if names
        else str(list(index))
    )


def distinct(first: complex, second: complex) -> tuple[str, str]:
    """Two values with as few digits (four at least) as it takes to tell them apart."""
    for digits in range(4, 18):
        texts = _value(first, digits), _value(second, digits)
        if texts[0] != texts[1]:
            return texts
    return _value(first, 4), _value(second, 4)


def _value(value: complex, digits: int) -> str:
    if isinstance(value, complex):
        return f"{value:.{digits}g}"
    if float(value).is_integer() and abs(value) < 1e15:
        return "-0" if value == 0.0 and math.copysign(1.0, value) < 0 else f"{int(value)}"
    return f"{value:.{digits}g}"


def would_pass(*comparisons: Comparison) -> str:
    """The smallest tolerance under which all of them pass, to be pasted, or that there is none.

    Of one comparison the figure is rounded to three digits, towards what passes; beside it stands a relative limit,
    unless half of every value might be wrong under it.
    """
    smallest = smallest_for_all(comparisons)
    if smallest is None:
        return NO_TOLERANCE
    enough = [smallest]
    if len(comparisons) == 1:
        enough += [one for one in comparisons[0].would_pass[1:] if isinstance(one, Close) and one != smallest]
    told = [
        one for one in enough if not isinstance(one, Close) or one is smallest or (one.rtol or 0.0) <= 0.5
    ]
    return " or ".join(dict.fromkeys(short(one).spelled() for one in told))


def _relabel(text: str, labels: Labels) -> str:
    if labels == LABELS:
        return text
    return re.sub(r"\b(actual|expected)\b", lambda match: labels[LABELS.index(match.group())], text)


def _with_first(lines: list[str]) -> Iterator[tuple[bool, str]]:
    return ((position == 0, line) for position, line in enumerate(lines))


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
