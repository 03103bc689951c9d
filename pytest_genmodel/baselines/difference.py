"""The candidate's weights against fingerprints: equal by digest, or different by about so much.

What comes out is the `WeightDifference` that comparing with the weights themselves would give, as far as it can be
known: the same rules judge it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, isnan
from typing import TYPE_CHECKING

from pytest_genmodel.baselines.fingerprint import Fingerprint, PrintedWeights, is_float, number_digest
from pytest_genmodel.baselines.sketch import CONFIDENCE, FLOOR, SIZE, Facts, cosine, distance, error, facts
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import WeightDifference, matched, ties_matter
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.weight_set import WeightSet, torch_dtype
from pytest_genmodel.pipelines.loading import stored_ties

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison

NEAR = 0.01
"""Relative drift up to which a tensor may still be the same numbers in another dtype: a cast to bfloat16 moves by
0.0017, and by 0.0039 at most."""
_NO_COSINE = 3.0 / SIZE**0.5
"""Three standard deviations of an estimated cosine: what is nearer to 0 cannot be told from it."""
_MULTIPLE = 1e-5
"""What a multiple leaves unexplained in a sketch, relative: float32 sums, and nothing else (measured: 3e-7)."""


def sketched_difference(ours: Component, theirs: Component, progress: Progress = silent) -> WeightDifference:
    """Compare a component with what is on record of the reference's; as `compare_stored` does, and raises.

    Args:
        ours: the candidate's component.
        theirs: a component whose weights are `PrintedWeights`.
        progress: told how many bytes are read.
    """
    ties = stored_ties(ours) if ours.class_name and ties_matter(ours, theirs) else ()
    difference = matched(ours, theirs, ties)
    printed = theirs.weights
    assert isinstance(printed, PrintedWeights)
    difference.ours.content_digest(progress)
    differing = [
        name
        for name, (one, other) in difference.counterparts.items()
        if difference.ours.digest(one) != printed.digest(other)
    ]
    known = facts(difference.ours, {difference.counterparts[name][0]: None for name in differing}, progress)
    for name in differing:
        one, other = difference.counterparts[name]
        _judge(difference, name, known.get(one), printed.prints[other])
    difference.glances = _Glances(difference, known, printed.prints)
    return _Estimated.of(difference)


def _judge(difference: WeightDifference, name: str, seen: Facts | None, theirs: Fingerprint) -> None:
    """Sort one tensor whose digest differs: the same numbers, rounded, or changed by an estimate."""
    stored = difference.counterparts[name][0]
    comparison = _estimate(difference.ours, stored, seen, theirs)
    if seen is not None and seen.statistics.nan + seen.statistics.inf:
        difference.not_finite.append(name)
    gap = comparison.relative_difference
    may_be_equal = gap is not None and (gap <= NEAR or isnan(gap)) and comparison.problem != "shape"
    if may_be_equal and is_float(difference.ours, stored):
        relation = _relation(difference.ours, stored, theirs)
        if relation == "equal":
            return
        if relation == "rounded":
            narrow = str(torch_dtype(difference.ours.tensors[stored].dtype)).removeprefix("torch.")
            difference.rounded[name] = narrow
            return
    difference.changed[name] = comparison


def _relation(weights: WeightSet, name: str, theirs: Fingerprint) -> str:
    """Exactly, by digests: "equal" numbers, theirs "rounded" to our dtype, or "other"."""
    from pytest_genmodel.tensors.streamed import same_numbers
    from pytest_genmodel.tensors.threads import one_thread

    with one_thread():
        tensor, dtype = weights.read(name), weights.tensors[name].dtype
        if dtype in theirs.casts:
            return "rounded" if number_digest(tensor) == theirs.casts[dtype] else "other"
        if dtype != theirs.dtype:
            narrow = tensor.to(torch_dtype(theirs.dtype))
            if not same_numbers(narrow, tensor):
                return "other"
            tensor = narrow
        return "equal" if number_digest(tensor) == theirs.numbers else "other"


def _estimate(weights: WeightSet, name: str, seen: Facts | None, theirs: Fingerprint) -> Comparison:
    """What can be said of the difference; figures are None where the two cannot be subtracted."""
    from pytest_genmodel.tensors import bitwise
    from pytest_genmodel.tensors.comparison import Comparison, Nonfinite

    stored = weights.tensors[name]
    shapes = stored.shape, theirs.shape
    dtypes = tuple(str(torch_dtype(dtype)).removeprefix("torch.") for dtype in (stored.dtype, theirs.dtype))
    figures = [side.statistics if side else None for side in (seen, theirs.facts)]
    odd = tuple(Nonfinite(side.nan, side.inf) if side else Nonfinite() for side in figures)
    comparable = seen is not None and theirs.facts is not None and shapes[0] == shapes[1]
    gap = norm = angle = None
    note = "of which no sketch can be made"
    if comparable and seen is not None and theirs.facts is not None:
        gap, norm, angle, note = _figures(seen, theirs.facts)
    return Comparison(
        passed=False,
        tolerance=bitwise,
        problem="shape" if shapes[0] != shapes[1] else "values",
        shapes=shapes,
        dtypes=(dtypes[0], dtypes[1]),
        devices=("cpu", "cpu"),
        numel=figures[0].numel if figures[0] else 0,
        cosine=angle,
        relative_norm_change=norm,
        relative_difference=gap,
        nonfinite=(odd[0], odd[1]),
        note=note,
    )


def _figures(ours: Facts, theirs: Facts) -> tuple[float, float, float | None, str]:
    """Relative difference, relative change of the norm, cosine, and how sure the first is."""
    scale = theirs.norm
    factor = _multiple(ours.row, theirs.row)
    exact = ours.statistics.numel <= SIZE or factor is not None
    away = distance(ours.row, theirs.row)
    if factor is not None:
        away = abs(factor - 1.0) * scale
    gap = away / scale if scale else (inf if away else 0.0)
    norm = abs(ours.norm - scale) / scale if scale else (inf if ours.norm else 0.0)
    if factor is not None:
        norm = abs(abs(factor) - 1.0)
    angle = cosine(ours.row, theirs.row)
    if angle is not None and abs(angle) < _NO_COSINE and not exact:
        angle = 0.0
    if isfinite(gap) and gap <= FLOOR:
        return gap, norm, angle, f"by less than a sketch sees ({FLOOR:g})"
    return gap, norm, angle, "max |a-b| unknown without the weights" if exact else uncertainty()


def uncertainty() -> str:
    """How sure an estimated drift is, in words."""
    low, high = error()
    return (
        f"estimated from a sketch (within -{100 * high / (1 + high):.0f} % and +{100 * low / (1 - low):.0f} % with "
        f"probability {CONFIDENCE:g})"
    )


def _multiple(ours: torch.Tensor, theirs: torch.Tensor) -> float | None:
    """The number that the whole of theirs was multiplied by, if it was: a sketch is linear."""
    ours, theirs = ours.double(), theirs.double()
    square = float(theirs @ theirs)
    if not square or not isfinite(square) or int(theirs.count_nonzero()) < 8:
        return None
    factor = float(ours @ theirs) / square
    left = float((ours - factor * theirs).norm())
    if not factor or not left <= _MULTIPLE * abs(factor) * square**0.5 or abs(factor - 1.0) <= 10 * _MULTIPLE:
        return None
    return factor


class _Glances:
    """Sketches, as what stands for the contents of tensors of one shape; ours are made when they are asked for."""

    def __init__(
        self, difference: WeightDifference, known: dict[str, Facts], prints: Mapping[str, Fingerprint]
    ) -> None:
        self._difference, self._known, self._prints = difference, known, prints

    def __call__(self, names: Sequence[str], others: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        pairs = self._difference.counterparts
        ours = [self._known[pairs[name][0]].row for name in names]
        theirs = [self._row(pairs[name][1]) for name in others]
        size = self._known[pairs[names[0]][0]].statistics.numel
        return torch.stack(ours)[:, :size].double(), torch.stack(theirs)[:, :size].double()

    def _row(self, name: str) -> torch.Tensor:
        import torch

        known = self._prints[name].facts
        return known.row if known is not None else torch.zeros(SIZE)


class _Estimated(WeightDifference):
    """A difference of which nothing more can be learned than what was estimated."""

    @classmethod
    def of(cls, difference: WeightDifference) -> WeightDifference:
        """The same, as one of these."""
        return cls(**vars(difference))

    def detail(self, name: str) -> Comparison:
        """The estimate again; with the likeness of a multiple, where it is one."""
        from dataclasses import replace

        from pytest_genmodel.tensors.likeness_evidence import Likeness

        comparison = self.changed[name]
        glances = self.glances
        if glances is None or comparison.problem == "shape" or not comparison.numel:
            return comparison
        ours, theirs = glances([name], [name])
        factor = _multiple(ours[0], theirs[0])
        if factor is None:
            return comparison
        likeness = Likeness(
            "scaled",
            f"actual is expected times {factor:.6g}, by their sketches",
            "A scale was applied once too often or not at all: look at alpha / rank of an adapter, "
            "the VAE scaling_factor, or a guidance or attention scale.",
            0.0,
            {"factor": factor},
        )
        return replace(comparison, likeness=likeness)
