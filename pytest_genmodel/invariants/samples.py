"""Two samples compared: latents step by step, then frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.finding import Finding

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.sampling import Sample
    from pytest_genmodel.tensors import Tolerance


@dataclass(frozen=True)
class SampleDifference:
    """Where two samples part: `location` is `step 3` (from 1) or `frame 5` (from 0, as videos are indexed)."""

    location: str
    message: str
    cause: str | None


def sample_difference(
    ours: Sample, theirs: Sample, tolerance: Tolerance | None = None
) -> SampleDifference | None:
    """Find the first step whose latents differ, else the first frame; None where the samples agree.

    Both are looked at: latents never see the decoder, and pixels, clamped to [0, 1], shrink differences.
    """
    from pytest_genmodel.tensors import bitwise, compare

    limit = tolerance or bitwise
    if ours.latents.shape == theirs.latents.shape:
        for step, (a, b) in enumerate(zip(ours.latents, theirs.latents, strict=True), start=1):
            comparison = compare(a, b, limit)
            if not comparison.passed:
                return SampleDifference(
                    f"step {step}",
                    f"the latents differ from step {step} of {len(ours.latents)} on: max |a-b| "
                    f"{comparison.max_abs:.3g}, relative difference {comparison.relative_difference:.3g} "
                    f"(limit: {limit})",
                    comparison.likeness.hint if comparison.likeness else None,
                )
    for frame, (a, b) in enumerate(zip(ours.frames, theirs.frames, strict=False)):
        comparison = compare(a, b, limit)
        if not comparison.passed:
            return SampleDifference(
                f"frame {frame}",
                f"all latents agree and the decoded frames differ from frame {frame} of {len(ours.frames)} on: "
                f"max |a-b| {comparison.max_abs:.3g} (limit: {limit})",
                "the difference is in the decoder, or in what it is given: look at the VAE",
            )
    if ours.frames.shape != theirs.frames.shape:
        return SampleDifference(
            "frames",
            f"the frames are {list(ours.frames.shape)} and were {list(theirs.frames.shape)}",
            None,
        )
    return None


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
