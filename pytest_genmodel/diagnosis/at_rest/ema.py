"""An averaged copy of the weights (EMA) against the raw ones, and against what training started from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from statistics import median
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.diff import hold_the_same_numbers
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.same_bytes import equal_spans
from pytest_genmodel.checkpoints.weights import WeightSet
from pytest_genmodel.diagnosis.damage import damage_finding
from pytest_genmodel.diagnosis.finding import Finding

FAR = 2.0
"""Times the size of a matrix: weights that were drawn at random and then trained are about sqrt(2) times their size
from where they began, and an average of them is nearer. One that runs away passes it in a few hundred steps."""
MOST_MATRICES = 16
"""Matrices that are looked at, spread over the model."""


def ema_findings(
    raw: Component, ema: Component, init: Component | None = None, progress: Progress = silent
) -> Iterator[Finding]:
    """Say whether the averaged copy is one.

    Args:
        raw: the weights that the optimizer moves.
        ema: their running average.
        init: the same component of the model that training started from, where it is known.
        progress: told of the tensors that are compared; reading stops at the first that differs.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    where: dict[str, Any] = {"component": raw.name or None, "location": f"{ema.folder.name}/"}
    if init is not None and _equal(ema, init, progress):
        if not _equal(raw, init, progress):
            yield Finding(
                "GM311",
                f"all {len(ema.weights.tensors)} tensors of {ema.folder.name} equal the model that training started "
                f"from, and those of {raw.folder.name} do not",
                cause="the average was created and never updated",
                **where,
            )
            return
        yield Finding(
            "GM302",
            f"{raw.folder.name} and {ema.folder.name} both equal the model that training started from",
            **where,
        )
    elif _equal(raw, ema, progress):
        yield Finding(
            "GM310",
            f"all {len(ema.weights.tensors)} tensors of {ema.folder.name} equal those of {raw.folder.name}",
            cause="one of the two was saved in the place of the other",
            **where,
        )
    else:
        yield from _ran_away(raw, ema, where)


def _ran_away(raw: Component, ema: Component, where: dict[str, Any]) -> Iterator[Finding]:
    """An average lies between weights that training went through: none of those was so far from the last ones."""
    names = {unwrapped(name): name for name in raw.weights.tensors}
    both = [
        (name, names[bare], bare)
        for name, tensor in ema.weights.tensors.items()
        if (bare := unwrapped(name)) in names and tensor.shape == raw.weights.tensors[names[bare]].shape
    ]
    matrices = [pair for pair in both if sum(size > 1 for size in ema.weights.tensors[pair[0]].shape) > 1]
    gaps: dict[str, float] = {}
    for name, other, bare in matrices[:: max(1, len(matrices) // MOST_MATRICES)]:
        theirs = raw.weights.read(other).double()
        norm = float(theirs.norm())
        away = float((ema.weights.read(name).double() - theirs).norm())
        if norm > 0.0 and isfinite(norm) and isfinite(away):
            gaps[bare] = away / norm
    if not gaps or not (middle := median(gaps.values())) > FAR:
        return
    worst = max(gaps, key=gaps.__getitem__)
    yield Finding(
        "GM323",
        f"half of the matrices of {ema.folder.name} are farther from those of {raw.folder.name} than {middle:.3g} "
        f"times their size (largest: {worst}, {gaps[worst]:.3g})",
        cause="the average is moved away from the weights at each step, or belongs to another model",
        evidence={"median": middle, "matrices": gaps},
        **where,
    )


def averages_beside(
    checkpoint: Checkpoint, start: Checkpoint | None = None, progress: Progress = silent
) -> Iterator[Finding]:
    """Look at every folder that keeps the average of a component beside it (`transformer_ema/`)."""
    for path in checkpoint.unread:
        raw = checkpoint.components.get(path.name.removesuffix("_ema")) if path.is_dir() else None
        if raw is None or not path.name.endswith("_ema") or not raw.has_weights:
            continue
        ema = replace(raw, folder=path, weights_file=None, source=None)
        init = start.components.get(raw.name) if start is not None else None
        try:
            yield from ema_findings(raw, ema, init, progress)
        except DamagedFileError as error:
            yield damage_finding(error, raw.name)


def _equal(one: Component, other: Component, progress: Progress) -> bool:
    """Whether two components hold the same numbers; reads up to the first tensor that differs."""
    a, b = ({unwrapped(name): name for name in side.weights.tensors} for side in (one, other))
    if a.keys() != b.keys():
        return False
    for done, name in enumerate(a):
        progress("comparing the average", done, len(a))
        if not _same_tensor(one.weights, a[name], other.weights, b[name]):
            progress("comparing the average", len(a), len(a))
            return False
    progress("comparing the average", len(a), len(a))
    return True


def _same_tensor(a: WeightSet, one: str, b: WeightSet, other: str) -> bool:
    left, right = a.tensors[one], b.tensors[other]
    if left.shape != right.shape:
        return False
    spans = a.spans(one), b.spans(other)
    if left.dtype == right.dtype and spans[0] is not None and spans[1] is not None:
        return equal_spans([(spans[0], spans[1])])[0]
    return hold_the_same_numbers(a.read(one), b.read(other))
