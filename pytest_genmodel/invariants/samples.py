"""Two samples compared: latents step by step, then frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import PARAMETER, beyond_tolerance

if TYPE_CHECKING:
    from pytest_genmodel.invariants.context import Context
    from pytest_genmodel.pipelines.sampling import Sample
    from pytest_genmodel.tensors import Tolerance


@dataclass(frozen=True)
class SampleDifference:
    """Where two samples part: `location` is `step 3` (from 1) or `frame 5` (from 0, as videos are indexed).

    `evidence` holds the number against the limit, and the smallest tolerance under which all of it would pass.
    """

    location: str
    message: str
    cause: str | None
    evidence: Mapping[str, Any]

    def finding(self, code: str) -> Finding:
        """The difference as a finding of this rule."""
        return Finding(code, self.message, location=self.location, cause=self.cause, evidence=self.evidence)


@dataclass(frozen=True)
class SampleComparison:
    """Two samples that a claim compares under `tolerance`; `code` is what it finds where they are too far apart.

    `ends` says that the claim then judges less than it would otherwise.
    """

    name: str
    code: str
    ours: Sample
    theirs: Sample
    tolerance: Tolerance
    ends: bool = False


def compare_samples(
    context: Context,
    name: str,
    code: str,
    ours: Sample,
    theirs: Sample,
    tolerance: Tolerance | str | None,
    *,
    ends: bool = False,
) -> SampleDifference | None:
    """Compare two samples as `sample_difference` does, and keep both where the run is saved."""
    limit = _as_tolerance(tolerance)
    if context.policy.saves:
        context.compared.append(SampleComparison(name, code, ours, theirs, limit, ends))
    difference = sample_difference(ours, theirs, limit)
    if difference is None:
        return None
    return replace(difference, evidence={**difference.evidence, "comparison": name})


def sample_difference(
    ours: Sample, theirs: Sample, tolerance: Tolerance | str | None = None
) -> SampleDifference | None:
    """Find the first step whose latents differ, else the first frame; None where the samples agree.

    Both are looked at: latents never see the decoder, and pixels, clamped to [0, 1], shrink differences.
    """
    from pytest_genmodel.tensors import compare

    limit = _as_tolerance(tolerance)
    alike = ours.latents.shape == theirs.latents.shape
    pairs = [
        *(zip(ours.latents, theirs.latents, strict=True) if alike else ()),
        *zip(ours.frames, theirs.frames, strict=False),
    ]
    steps = len(ours.latents) if alike else 0
    for place, (a, b) in enumerate(pairs):
        comparison = compare(a, b, limit)
        if comparison.passed:
            continue
        rest = [compare(x, y, limit, in_detail=False) for x, y in pairs[place + 1 :]]
        evidence: dict[str, Any] = {}
        if alike and ours.frames.shape == theirs.frames.shape:
            evidence = beyond_tolerance(
                [comparison, *(one for one in rest if not one.passed)], parameter=PARAMETER
            )
        if place < steps:
            return SampleDifference(
                f"step {place + 1}",
                f"the latents differ from step {place + 1} of {steps} on: max |a-b| "
                f"{comparison.max_abs:.3g}, relative difference {comparison.relative_difference:.3g} "
                f"(limit: {limit})",
                comparison.likeness.hint if comparison.likeness else None,
                evidence,
            )
        frame = place - steps
        return SampleDifference(
            f"frame {frame}",
            f"all latents agree and the decoded frames differ from frame {frame} of {len(ours.frames)} on: "
            f"max |a-b| {comparison.max_abs:.3g} (limit: {limit})",
            "the difference is in the decoder, or in what it is given: look at the VAE",
            evidence,
        )
    if ours.frames.shape != theirs.frames.shape:
        return SampleDifference(
            "frames",
            f"the frames are {list(ours.frames.shape)} and were {list(theirs.frames.shape)}",
            None,
            {},
        )
    return None


def _as_tolerance(tolerance: Tolerance | str | None) -> Tolerance:
    from pytest_genmodel.tensors import Tolerance, bitwise

    return Tolerance.parse(tolerance) if isinstance(tolerance, str) else tolerance or bitwise


def content_findings(sample: Sample) -> Iterator[Finding]:
    """Say so when a sample is no video: NaN, Inf, or one value everywhere."""
    for step, latents in enumerate(sample.latents, start=1):
        if not bool(latents.isfinite().all()):
            count = int((~latents.isfinite()).sum())
            yield Finding(
                "GM504",
                f"{count} of {latents.numel()} latents are NaN or Inf after step {step}",
                location=f"step {step}",
            )
            return
    for frame, pixels in enumerate(sample.frames):
        if not bool(pixels.isfinite().all()):
            yield Finding(
                "GM504",
                f"frame {frame} holds NaN or Inf; the latents do not",
                component="vae",
                location=f"frame {frame}",
            )
            return
    if float(sample.frames.max() - sample.frames.min()) == 0.0:
        yield Finding(
            "GM505", f"every pixel of every frame is {float(sample.frames.max()):.3g}", location="frame 0"
        )
