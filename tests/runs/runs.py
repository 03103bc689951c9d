"""A saved run made by hand: what claims compared, and every kind of outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pytest_genmodel.diagnosis.limit import beyond_tolerance
from pytest_genmodel.invariants.samples import SampleComparison, sample_difference
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.reports.report import plain
from pytest_genmodel.runs.observed import bounded, record
from pytest_genmodel.runs.saved import SavedRun, key, read, write
from pytest_genmodel.tensors import Tolerance, bitwise
from tests.reports.documents import document, finding, verdict

__all__ = ["beyond_tolerance", "compared", "finding", "sample", "saved", "verdict"]


def sample(
    offset: float = 0.0, *, step: int | None = None, frame: int | None = None, frames: int = 5
) -> Sample:
    """Two steps and some frames of fixed values, with `offset` added to one step's latents or to one frame."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 1, 2, 4, 2, 2, generator=generator)
    pixels = torch.rand(frames, 3, 4, 4, generator=generator)
    if step is not None:
        latents[step - 1] += offset
    if frame is not None:
        pixels[frame] += offset
    return Sample(latents, pixels)


def compared(
    ours: Sample, theirs: Sample, tolerance: Tolerance = bitwise, *, ends: bool = False, code: str = "GM501"
) -> SampleComparison:
    return SampleComparison("the same seed again", code, ours, theirs, tolerance, ends)


def saved(
    path: Path,
    comparison: SampleComparison | None = None,
    *,
    invariant: str = "seeded_sampling",
    strict: bool = False,
    most: int | None = None,
    baseline: bytes | None = None,
    **changes: Any,
) -> SavedRun:
    """A run of one verdict about `comparison`, judged as the claim judges it; else of `changes` to that verdict."""
    comparisons = {}
    one = verdict(invariant, section="sampling", **changes)
    if comparison is not None:
        found = sample_difference(comparison.ours, comparison.theirs, comparison.tolerance)
        if found is not None:
            evidence = plain({**found.evidence, "comparison": comparison.name})
            one["findings"] = [
                finding(comparison.code, component=None, location=found.location, evidence=evidence),
                *one["findings"],
            ]
            one["outcome"] = "failed"
        comparisons = {key(one): [record(comparison)]}
        if most is not None:
            bounded(comparisons[key(one)], most)
    report = {**document("run-17"), "verdicts": [one], "complete": True}
    report["environment"] |= {"dtype": "auto", "level": "quick"}
    report["exit_status"] = int(one["outcome"] in ("failed", "inconclusive"))
    write(path, report, comparisons, {"strict": strict, "baseline": None}, (), baseline)
    return read(path)
