"""What became of a component as a whole: all of it times one number, or nothing left of the reference."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from statistics import median
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.difference.drift import figure
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.diagnosis.rules import Severity

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison

FAR = 0.2
"""How far from 1 a number is that no training gives to every tensor, norms included."""
_NEARLY_ALL, _ALIKE, _LEFT = 0.9, 0.05, 0.25
"""Share of the tensors that agree on the number, how well, and what may be left of the difference beside it."""
UNLIKE = 0.3
"""Cosine below which half of a component's matrices lie, where it is another model: a fine-tune stays above 0.9."""
SMALL = 0.1
"""Norms relative to the reference's below which the file holds a difference of weights, not weights."""
_ENOUGH, _MATRIX, _FEW = 8, 256, 4


@dataclass(frozen=True)
class Projection:
    """A tensor as `factor` times the reference's and a `rest` that is at right angles to it, both of its size."""

    factor: float
    rest: float

    @property
    def size(self) -> float:
        """The norm, relative to the reference's."""
        return float((self.factor**2 + self.rest**2) ** 0.5)


def projections(difference: WeightDifference, least: int = _ENOUGH) -> dict[str, Projection]:
    """Each changed tensor of `least` values or more that has the figures for it."""
    found = ((name, _projection(one)) for name, one in difference.changed.items() if one.numel >= least)
    return {name: one for name, one in found if one is not None}


def _projection(comparison: Comparison) -> Projection | None:
    """From the cosine c, the relative difference g and the relative change of the norm: g^2 = s^2 - 2 s c + 1."""
    gap = figure(comparison.relative_difference, comparison)
    change = figure(comparison.relative_norm_change, comparison)
    if gap is None or change is None or comparison.cosine is None:
        return None
    cosine = max(-1.0, min(1.0, comparison.cosine))
    sizes = (1.0 + change, max(0.0, 1.0 - change))
    size = min(sizes, key=lambda s: abs(s * s - 2.0 * s * cosine + 1.0 - gap * gap))
    return Projection(size * cosine, float(size * (1.0 - cosine * cosine) ** 0.5))


def whole_factor(difference: WeightDifference) -> tuple[float, list[str]] | None:
    """The number far from 1 that nearly all tensors are the reference's times, trained on since; and which are."""
    seen = projections(difference)
    if len(seen) < _FEW or 2 * len(seen) < difference.compared:
        return None
    middle = median(one.factor for one in seen.values())
    room = abs(middle - 1.0)
    alike = [
        name
        for name, one in seen.items()
        if abs(one.factor - middle) <= _ALIKE * max(1.0, abs(middle)) and one.rest <= _LEFT * room
    ]
    if room < FAR or abs(middle) < FAR or len(alike) < _NEARLY_ALL * difference.compared:
        return None
    return middle, alike


def unlike(difference: WeightDifference, left: list[str]) -> tuple[float, float] | None:
    """The median cosine and the median relative norm of the matrices `left`, where the component is another model.

    None where it is not: where half of the matrices still point the reference's way, or were left by other marks.
    """
    seen = {name: one for name, one in projections(difference, _MATRIX).items() if one.size > 0.0}
    mine = [seen[name] for name in left if name in seen]
    stored = difference.ours.tensors
    large = [n for n, (one, _) in difference.counterparts.items() if prod(stored[one].shape) >= _MATRIX]
    if len(mine) < _FEW or 2 * len(mine) < len(large):
        return None
    cosine = median(one.factor / one.size for one in mine)
    return (cosine, median(one.size for one in mine)) if cosine < UNLIKE else None


def factor_finding(component: str, factor: float, names: list[str], total: int) -> Finding:
    """Say that nearly all tensors are the reference's times one number that is far from 1."""
    return Finding(
        "GM316",
        f"{len(names)} of {total} tensors, norms included, are the reference's times {factor:.4g} "
        "(and have changed a little since)",
        component=component or None,
        location=names[0],
        severity=Severity.ERROR,
        cause="the weights were negated: a difference was taken the wrong way round"
        if factor < 0.0
        else "an average that started from zeros was not divided by what its weights add up to"
        if factor < 1.0
        else "models were added up, and the sum was not divided by their weights",
        evidence={"factor": factor, **name_evidence(names)},
    )


def unlike_finding(
    component: str, found: tuple[float, float], names: list[str], total: int, change: Change
) -> Finding:
    """Say that a component is no fine-tune of the reference's; an error where it is meant to be one, or the same."""
    cosine, size = found
    return finding_of(
        "GM328",
        names,
        "have nothing in common with the reference's",
        of=total,
        after=f"; half of the matrices have a cosine below {cosine:.2g} with it, and {size:.2g} times its size",
        component=component or None,
        severity=Severity.WARNING if change is Change.ALLOWED else Severity.ERROR,
        cause="the file holds the difference from the base, and not the weights"
        if size < SMALL
        else "the weights are another model's, or were made anew: they were not trained from the reference",
        evidence={"cosine": cosine, "relative_norm": size},
    )
