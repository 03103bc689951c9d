"""Tensors of the same numbers in another dtype: said once for the component, and how many from which to which."""

from __future__ import annotations

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.weights import WeightSet
from pytest_genmodel.diagnosis.finding import Finding, finding_of


def recast(difference: WeightDifference) -> list[str]:
    """Tensors of the same numbers in another dtype."""
    return [
        name
        for name, (one, other) in difference.counterparts.items()
        if _dtype(difference.ours, one) != _dtype(difference.theirs, other)
        and name not in difference.changed
        and name not in difference.rounded
    ]


def _dtype(weights: WeightSet, name: str) -> str:
    return weights.tensors[name].dtype


def recast_finding(component: str | None, difference: WeightDifference, names: list[str]) -> Finding:
    """Say from which dtype to which the equal tensors `names` were cast."""
    casts: dict[str, int] = {}
    for name in names:
        one, other = difference.counterparts[name]
        cast = f"{_dtype(difference.theirs, other)} to {_dtype(difference.ours, one)}"
        casts[cast] = casts.get(cast, 0) + 1
    return finding_of(
        "GM213",
        names,
        "are equal and stored in another dtype",
        of=difference.compared,
        after=f"; {', '.join(f'{count} {cast}' for cast, count in casts.items())}",
        component=component,
        evidence={"casts": casts},
    )
