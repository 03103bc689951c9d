"""Pipelines with two denoisers, each for its own noise levels: the two must not be one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import prod

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.weights import WeightSet
from pytest_genmodel.diagnosis.finding import Finding


def same_experts(
    checkpoint: Checkpoint, denoisers: Sequence[str], start: Checkpoint | None = None
) -> Iterator[Finding]:
    """Say that two denoisers hold the same weights, where those of the model that training started from do not.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    for one, other in combinations(denoisers, 2):
        if _alike(checkpoint, one, other) and not (start is not None and _alike(start, one, other)):
            yield Finding(
                "GM436",
                f"every weight of the {other} is that of the {one}",
                component=other,
                location=f"{other}/",
                cause="one of the experts was saved, or copied, under both names",
            )


def _alike(checkpoint: Checkpoint, one: str, other: str) -> bool:
    parts = [checkpoint.components.get(name) for name in (one, other)]
    weights = [part.weights for part in parts if part is not None and part.has_weights]
    return len(weights) == 2 and hold_the_same(*weights)


def hold_the_same(ours: WeightSet, theirs: WeightSet) -> bool:
    """Whether two sets of weights are equal; where they are not, one small tensor mostly says so."""
    if ours.tensors.keys() != theirs.tensors.keys():
        return False
    smallest = min(ours.tensors, key=lambda name: prod(ours.tensors[name].shape))
    if ours.digest(smallest) != theirs.digest(smallest):
        return False
    return ours.content_digest() == theirs.content_digest()
