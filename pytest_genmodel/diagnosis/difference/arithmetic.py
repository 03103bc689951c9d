"""A few tensors that are the reference's times a number, or off by one, or filled with one number, among many that
barely moved: a converter's arithmetic, not training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.difference.drift import drift_of
from pytest_genmodel.diagnosis.difference.kinds import as_stored
from pytest_genmodel.diagnosis.finding import Finding, finding_of

NEAR = 0.1
"""The bulk stayed near the reference: half of all tensors moved by less than this, relatively."""
OUTSTANDING, LEAST = 5.0, 0.4
"""Times the median, and relatively: how far a tensor must be for arithmetic to be looked for in it."""
FACTOR = 3.0
"""A tensor that grew or shrank by less may have been trained so."""
EXPLAINED = 0.2
"""Share of a tensor's difference that may be left once the arithmetic is done on the reference."""
_ENOUGH = 8
_MOST_VALUES, _SMALL = 1 << 28, 1 << 16
"""Values of a tensor that is read in full, and of one that moved less, of which only a fill would tell."""


@dataclass(frozen=True)
class Computed:
    """Our tensor `name` is the reference's after `what`: one of `multiplied`, `off by`, `filled`."""

    name: str
    what: str
    number: float


def computed(difference: WeightDifference, suspects: list[str]) -> list[Computed]:
    """Find tensors that arithmetic alone explains, where the bulk stayed near the reference.

    Args:
        difference: what comparing the weights came to; nothing is found where the reference's values are not here.
        suspects: changed tensors of equal shapes, the one that moved most first.
    """
    drift = drift_of(difference)
    if difference.glances is not None or drift is None or drift.median > NEAR:
        return []
    least = max(LEAST, OUTSTANDING * drift.median)
    found: list[Computed] = []
    for name in suspects:
        comparison = difference.changed[name]
        is_far = (comparison.relative_difference or 0.0) >= least
        if _ENOUGH <= comparison.numel <= (_MOST_VALUES if is_far else _SMALL):
            one = _explained(difference, name, is_far)
            found += [one] if one else []
    return as_stored(difference, found)


def _explained(difference: WeightDifference, name: str, is_far: bool) -> Computed | None:
    ours, theirs = (side.double() for side in difference.read(name))
    gap = float((ours - theirs).norm())
    if float(ours.min()) == float(ours.max()):  # a matrix that is filled shows without a reference
        varied = ours.ndim == 1 and float(theirs.std()) > 0.0
        return Computed(name, "filled", float(ours.flatten()[0])) if varied else None
    if not is_far:
        return None
    for step in (-1.0, 1.0):
        if float((ours - theirs - step).norm()) <= EXPLAINED * gap:
            return Computed(name, "off by", step)
    factor = float((ours * theirs).sum() / theirs.square().sum().clamp_min(1e-300))
    is_large = not 1.0 / FACTOR <= factor <= FACTOR
    if is_large and float((ours - factor * theirs).norm()) <= EXPLAINED * gap:
        return Computed(name, "multiplied", factor)
    return None


def arithmetic_findings(component: str, found: list[Computed], total: int) -> Iterator[Finding]:
    """One finding for each kind of arithmetic, its tensors together."""
    filled = [one for one in found if one.what == "filled"]
    steps = [one for one in found if one.what == "off by"]
    factors = [one for one in found if one.what == "multiplied"]
    if steps:
        yield _finding(
            component,
            steps,
            "are the reference's plus or minus one",
            total,
            f"; {steps[0].name} is off by {steps[0].number:+g}",
            "one library stores a norm's weight as its distance from 1, another as it is",
        )
    if factors:
        numbers = sorted({f"{one.number:.4g}" for one in factors}, key=float)
        shown = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        yield _finding(
            component,
            factors,
            "are the reference's times a number",
            total,
            f"; the number is {shown}",
            "quantized weights were read without their scales"
            if len(numbers) > 2
            else "a scale was applied twice, or the wrong way round",
        )
    if filled:
        yield _finding(
            component,
            filled,
            "hold one number, and the reference's do not",
            total,
            f"; {filled[0].name} is {filled[0].number:g} everywhere",
            "they were not converted, and kept the value that a new layer starts with",
        )


def _finding(component: str, found: list[Computed], what: str, total: int, after: str, cause: str) -> Finding:
    return finding_of(
        "GM319",
        [one.name for one in found],
        what,
        of=total,
        after=f"{after}; the bulk stayed near the reference",
        component=component or None,
        cause=cause,
        evidence={"numbers": {one.name: one.number for one in found[:20]}},
    )
