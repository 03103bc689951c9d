"""GM975: the frames that a pipeline gives are those that its VAE decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.absolute.layout import channels_first
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.observed_run import ObservedRun

if TYPE_CHECKING:
    import torch

LIMIT = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2.0**-7}
"""Of a pixel in 0 to 1: it is halved, moved by a half and clipped, in the dtype that was decoded to, and nothing more
(measured: 0)."""
FARTHEST = 4
"""Frames that a video may be moved by to be called moved."""
TURNED: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "red and blue are exchanged": lambda video: video.flip(1),
    "the frames are in reverse": lambda video: video.flip(0),
    "they are mirrored": lambda video: video.flip(3),
    "they are upside down": lambda video: video.flip(2),
    "they are inverted": lambda video: 1 - video,
}


def frame_findings(context: Context, run: ObservedRun) -> Iterator[Finding]:
    """Each frame is (decoded + 1) / 2, clipped to 0 to 1, in the decoder's order."""
    import torch

    if run.sample is None or not run.made or not context.candidate.family.is_known:
        return
    if len(run.made) > 1 and run.made[0].ndim == 5:
        context.measure(frames="not judged: the clip is put together of several")
        return
    frames = run.sample.frames
    decoded = channels_first(run.made).transpose(0, 1).float()
    expected_count = context.candidate.family.frames_made(context.candidate.checkpoint, run.probe)
    dropped = 0 if expected_count is None else len(decoded) - expected_count
    decoded = decoded[max(dropped, 0) :]
    if decoded.shape != frames.shape or not bool(decoded.isfinite().all()):
        context.measure(frames="not judged: they have another size than what was decoded, or no values")
        return
    expected = (decoded / 2 + 0.5).clamp(0, 1)
    limit = LIMIT.get(context.candidate.placement.dtype, LIMIT["bfloat16"])
    gaps = (frames - expected).abs().flatten(1).amax(1)
    error = float(gaps.max())
    if error <= limit:
        context.measure(frames=f"{len(frames)} as they were decoded")
        return
    first = int((~(gaps <= limit)).nonzero()[0])
    yield Finding(
        "GM975",
        f"frame {first} of {len(frames)} is not what was decoded: off by {error:.2g} of 1 (limit {limit:.2g}; "
        f"{int((~(gaps <= limit)).sum())} frames are)",
        location=f"frame {first}",
        cause=_why(frames, expected, decoded, max(limit, 1e-4)),
        evidence=against(
            error if error == error else float(torch.finfo().max), limit, "of a pixel in 0 to 1"
        ),
    )


def _why(frames: torch.Tensor, expected: torch.Tensor, decoded: torch.Tensor, limit: float) -> str | None:
    def fits(a: torch.Tensor, b: torch.Tensor) -> bool:
        return bool(((a - b).abs() <= limit).all())

    for what, turn in TURNED.items():
        if fits(frames, turn(expected)):
            return f"{what} between the VAE and the video"
    for by in range(1, min(FARTHEST, len(frames) - 1) + 1):
        if fits(frames[by:], expected[:-by]):
            return f"the video is {by} frame{'s' * (by > 1)} late"
        if fits(frames[:-by], expected[by:]):
            return f"the video is {by} frame{'s' * (by > 1)} early"
    if fits(frames, (decoded.clamp(0, 1) / 2 + 0.5)):
        return "it is clipped to 0 to 1 before it is brought there from -1 to 1: nothing is darker than grey"
    if fits(frames, decoded.clamp(0, 1)):
        return "what was decoded is taken to lie in 0 to 1, and lies in -1 to 1"
    if fits(frames, expected / 2 + 0.5):
        return "it is brought from -1 to 1 to 0 to 1 twice: the video is pale"
    return None
