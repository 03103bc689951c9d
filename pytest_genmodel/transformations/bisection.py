"""Samples with the differing parts exchanged one by one: how much of the damage each of them carries."""

from __future__ import annotations

import gc
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.call_memo import CallMemo
from pytest_genmodel.pipelines.curves import distance
from pytest_genmodel.transformations.swaps import Part, exchanged

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.pipelines.sampling import Sample

MOST_PARTS = 12
"""Parts up to which each is exchanged both ways; of more only into the reference."""


@dataclass(frozen=True)
class Damage:
    """How far a sample is from the reference's.

    `latents` is the relative L2 distance of the last latents, infinite where they are no numbers or of another shape;
    `frames` the root mean square of the difference of pixels in [0, 1], a pixel that is no number counting as 1;
    None where the video has another shape.
    """

    latents: float
    frames: float | None


@dataclass(frozen=True)
class Swap:
    """One part: the damage of the reference with this part of the candidate's (`alone`), and of the candidate with
    this part of the reference's (`rest`); None where that combination does not run: `problem` says why.
    """

    part: Part
    alone: Damage | None
    rest: Damage | None
    problem: str | None = None


@dataclass(frozen=True)
class Bisection:
    """What exchanging the parts showed. `whole` is the candidate's damage; `samples` were computed for it, `calls` of
    components made, and `shared` answered from memory.
    """

    whole: Damage
    swaps: tuple[Swap, ...]
    samples: int
    calls: int
    shared: int

    def share(self, swap: Swap) -> float | None:
        """How much of the damage the part carries, 1 for all of it.

        The mean of what it does when it comes first and when it comes last (with two parts, their Shapley value): of
        the frames, or of the latents where the frames are equal. None where neither combination runs.
        """
        whole = _figure(self.whole, self.by_frames)
        found = []
        if swap.alone is not None:
            found.append(_figure(swap.alone, self.by_frames) / whole)
        if swap.rest is not None:
            found.append(1 - _figure(swap.rest, self.by_frames) / whole)
        return sum(found) / len(found) if found else None

    @property
    def by_frames(self) -> bool:
        """Whether damage is measured by frames: they differ; of another shape, they do where latents are equal."""
        return bool(self.whole.frames) or not self.whole.latents

    @property
    def ranked(self) -> list[tuple[Swap, float]]:
        """The parts with their shares, the largest first."""
        shares = [(swap, share) for swap in self.swaps if (share := self.share(swap)) is not None]
        return sorted(shares, key=lambda one: -one[1])


def bisect(
    ours: Pipeline, theirs: Pipeline, probe: Probe, parts: Collection[Part], workdir: Path
) -> Bisection | None:
    """Sample with each part exchanged; None where the two samples are equal.

    Costs two samples for each part (two in all for two parts), on top of the two that are compared; calls that are
    equal in several samples are made once.

    Args:
        ours, theirs: candidate and reference; what they hold live is shared.
        probe: the inputs.
        parts: what differs, as `differing_parts` gives it.
        workdir: where folders of links are made.
    """
    memo = CallMemo()
    before = ours.samples.computed
    base = _sampled(theirs, probe, memo)
    whole = _damage(_sampled(ours, probe, memo), base)
    if whole.latents == 0.0 == whole.frames:
        return None
    both_ways = len(parts) <= MOST_PARTS
    swaps = []
    for part in parts:
        alone, problem = _try(ours, theirs, [part], probe, workdir, memo, base)
        rest: Damage | None = None
        if both_ways:
            others = [other for other in parts if other != part]
            rest, second = _try(ours, theirs, others, probe, workdir, memo, base)
            problem = problem or second
        swaps.append(Swap(part, alone, rest, problem))
    return Bisection(whole, tuple(swaps), ours.samples.computed - before, memo.made, memo.shared)


def _try(
    ours: Pipeline,
    theirs: Pipeline,
    parts: Collection[Part],
    probe: Probe,
    workdir: Path,
    memo: CallMemo,
    base: Sample,
) -> tuple[Damage | None, str | None]:
    """The damage of the reference with these parts of the candidate's, or why it does not run."""
    try:
        derived = theirs.derive(exchanged(theirs.checkpoint, ours.checkpoint, parts, workdir))
        try:
            return _damage(_sampled(derived, probe, memo), base), None
        finally:
            derived.release()
            gc.collect()  # live pipelines are held by cycles, and the next combination is about to load
    except (GenmodelError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        return None, first_line(error)  # parts of two models need not fit together


def _sampled(pipeline: Pipeline, probe: Probe, memo: CallMemo) -> Sample:
    pipeline.require_backed()
    with memo.around(pipeline, _contents(pipeline)):
        return pipeline.sample(probe)


def _contents(pipeline: Pipeline) -> Mapping[str, str]:
    return {name: pipeline.content_key(name) for name in pipeline.components}


def _damage(sample: Sample, base: Sample) -> Damage:
    import torch

    latents = float("inf")
    if sample.latents.shape == base.latents.shape and bool(sample.latents[-1].isfinite().all()):
        latents = distance(sample.latents[-1], base.latents[-1])
    if sample.frames.shape != base.frames.shape:
        return Damage(latents, None)
    squares = (sample.frames.double() - base.frames.double()).square()
    squares = torch.where(squares.isfinite(), squares, torch.ones_like(squares))
    return Damage(latents, float(squares.mean().sqrt()))


def _figure(damage: Damage, by_frames: bool) -> float:
    """One number; a video of another shape counts as 1, which is the most that pixels can differ."""
    if by_frames:
        return damage.frames if damage.frames is not None else 1.0
    return min(damage.latents, 1e6)
