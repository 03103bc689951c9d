"""How far a component moved: a summary, one factor for all, and tensors that did not move but were made anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.diagnosis.difference.kinds import kind_of

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison

MOST_GROUPS = 3
"""Groups of tensors that the summary names."""
_NEAR = 0.3
"""The bulk stayed near the reference: half of all tensors moved by less than this, relatively."""
_ENOUGH = 256
_UNRELATED = 0.05
_SAME_FACTOR = 0.02
"""How well the factors of all tensors agree, relative to their distance from 1."""
_MANY, _MANY_AMONG_OTHERS = 3, 10
"""One factor on fewer tensors than this is what their likeness says; more of them where others moved freely."""
_SHORT = 8
"""Any single number is a multiple of another, and a few numbers nearly are."""


@dataclass(frozen=True)
class Drift:
    """Relative changes of a component's tensors, those that did not change counted as 0.

    `groups` are kinds of tensors (block numbers taken out) by their median, the one that moved most first.
    """

    median: float
    largest: float
    worst: str
    groups: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "median": self.median,
            "largest": self.largest,
            "worst": self.worst,
            "groups": dict(self.groups[:20]),
        }


def figure(value: float | None, comparison: Comparison) -> float | None:
    """The figure, where it is one: None where a side holds NaN or Inf, or a reference of zeros makes it infinite."""
    odd = any(side.nan or side.inf for side in comparison.nonfinite)
    return None if value is None or odd or not isfinite(value) else value


def drift_of(difference: WeightDifference, leave_out: Collection[str] = ()) -> Drift | None:
    """Summarise how far the tensors moved, but for those in `leave_out`; None where no tensor has a figure."""
    moved = {name: gap for name, gap in relative_changes(difference).items() if name not in leave_out}
    if not moved:
        return None
    unmoved = (name for name in difference.counterparts if name not in difference.changed)
    everything = dict.fromkeys(unmoved, 0.0) | moved
    groups: dict[str, list[float]] = {}
    for name, value in everything.items():
        groups.setdefault(kind_of(unwrapped(name)), []).append(value)
    medians = sorted(((kind, median(values)) for kind, values in groups.items()), key=lambda pair: -pair[1])
    worst = max(moved, key=moved.__getitem__)
    return Drift(
        median(everything.values()), moved[worst], worst, tuple(pair for pair in medians if pair[1] > 0.0)
    )


def relative_changes(difference: WeightDifference) -> dict[str, float]:
    """The relative difference of each changed tensor that has one."""
    found = {}
    for name, comparison in difference.changed.items():
        value = figure(comparison.relative_difference, comparison)
        if value is not None:
            found[name] = value
    return found


def made_anew(difference: WeightDifference) -> list[str]:
    """Tensors that have nothing in common with the reference's, where the bulk stayed near it.

    Two independent draws of one spread differ by about sqrt(2) of their size, and their cosine is 0 within
    3 / sqrt(n).
    """
    drift = drift_of(difference)
    if drift is None or drift.median > _NEAR:
        return []
    found = []
    for name, comparison in difference.changed.items():
        cosine, gap = comparison.cosine, figure(comparison.relative_difference, comparison)
        if cosine is None or gap is None or comparison.numel < _ENOUGH or gap < 0.7:
            continue
        kept_norm = figure(comparison.relative_norm_change, comparison)
        if kept_norm is not None and kept_norm > 0.999 and gap < 1.001:
            continue  # zeroed: that is another mark
        if abs(cosine) < max(_UNRELATED, 3.0 / comparison.numel**0.5):
            found.append(name)
    return found


def one_factor(difference: WeightDifference, names: list[str]) -> tuple[float, list[str]] | None:
    """The number that the tensors `names` are the reference's times, and which of them are; None where there is none.

    Where a tensor is a multiple of the reference's, its relative difference equals the relative change of its norm.
    """
    gaps: dict[str, float] = {}
    for name in names:
        comparison = difference.changed[name]
        gap, norm = (
            figure(value, comparison)
            for value in (comparison.relative_difference, comparison.relative_norm_change)
        )
        if not gap or norm is None:
            continue
        rounding = _rounding(difference, name)
        clean = max(gap * gap - rounding * rounding, 0.0) ** 0.5
        if gap > 3.0 * rounding and abs(clean - norm) <= _SAME_FACTOR * gap:
            gaps[name] = gap
    telling = [gap for name, gap in gaps.items() if difference.changed[name].numel >= _SHORT]
    if not telling:
        return None
    middle = median(telling)
    alike = [name for name, gap in gaps.items() if abs(gap - middle) <= _SAME_FACTOR * middle]
    if len(alike) < (_MANY if len(alike) == len(names) else _MANY_AMONG_OTHERS):
        return None
    largest = max(alike, key=lambda name: difference.changed[name].numel)
    likeness = difference.detail(largest).likeness
    if likeness is None or likeness.kind != "scaled":
        return None
    factor, left = likeness.details.get("factor"), likeness.residual or 0.0
    if left > _SAME_FACTOR / 2 * gaps[largest] + 2.0 * _rounding(difference, largest):
        return None
    return (float(factor), alike) if isinstance(factor, int | float) else None


def _rounding(difference: WeightDifference, name: str) -> float:
    """What rounding to the stored dtype changes of a tensor, relative to its norm: one ulp, spread evenly."""
    mantissa = {"F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2}
    dtype = difference.ours.tensors[difference.counterparts[name][0]].dtype
    return float(2.0 ** -mantissa.get(dtype, 23) / 12.0**0.5)
