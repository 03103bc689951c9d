"""GM970 and GM976: where among the latents the image's stand when the denoiser is called, and at what scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.absolute.initial_noise import least_alike
from pytest_genmodel.invariants.absolute.layout import (
    UNKNOWN,
    argument_clip,
    channels_first,
    clip_of,
    noisy_argument,
    scaling_factor,
    vae_scale,
)
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.effective import effective_config
from pytest_genmodel.pipelines.families.base import ImageLatents
from pytest_genmodel.pipelines.observed_run import Denoised, ObservedRun
from pytest_genmodel.pipelines.recording import Call

if TYPE_CHECKING:
    import torch

ALIKE, SAME = 0.9, 0.999
"""Cosine from which latents are taken for the image's (LTX-Video's conditions have noise on them: 0.97), and from
which they are nothing else, so that their scale can be told."""
NEAR = 1e-2
"""Share of its size by which another encoded frame may be nearer: rounding of 16 bits (measured: 3e-3)."""
SCALE = {"float32": 1e-2, "float16": 2e-2, "bfloat16": 5e-2}


def image_latent_findings(context: Context, run: ObservedRun) -> Iterator[Finding]:
    """The latents that were taken from the encoded image are where the family puts them, and nowhere else.

    Judged are the first step and the one after it: some pipelines put them there in each.
    """
    later = next((seen for seen in run.denoised if seen.step > 0), None)
    for seen in run.denoised[:1] + ([] if later is None else [later]):
        found = _clips(context, run, seen.call)
        if isinstance(found, str):
            context.measure(image_latents=f"not judged: {found}")
            return
        if findings := list(_judged(context, seen, *found)):
            yield from findings
            return


def _judged(
    context: Context, seen: Denoised, place: ImageLatents, given: torch.Tensor, expected: torch.Tensor
) -> Iterator[Finding]:
    frames = min(given.shape[1], len(place.shown))
    alike = _cosines(given[:, :frames], expected)
    size = given[:, 0].numel()
    limit = max(ALIKE, least_alike(size, alike.numel()))
    lost = [
        frame
        for frame, shown in enumerate(place.shown[:frames])
        if shown is not None
        and (not float(alike[frame, shown]) >= limit or not _is_nearest(given[:, frame], expected, shown))
    ]
    extra = [
        frame
        for frame, shown in enumerate(place.shown[:frames])
        if shown is None and float(alike[frame, 0]) >= limit
    ]
    name = seen.call.model
    stands = [frame for frame in range(frames) if float(alike[frame, 0]) >= limit]
    if lost or extra:
        worst = min(float(alike[frame, place.shown[frame] or 0]) for frame in lost or extra)
        due = [frame for frame, shown in enumerate(place.shown[:frames]) if shown is not None]
        yield Finding(
            "GM970",
            f"{_list(due)} of {frames} latent frames must hold what was encoded, and in the "
            + ("first step " if seen.step == 0 else "second step ")
            + (
                f"{_list(lost)} {'does' if len(lost) == 1 else 'do'} not"
                if lost
                else f"{_list(extra)} hold it too"
            )
            + f"; the image's latents stand in {_list(stands) or 'none'}",
            component=name,
            location=place.argument,
            cause="the image is given to every frame"
            if not lost and len(stands) == frames
            else "the image is put at another frame than the first"
            if lost and stands
            else "other latents stand in its place, or it is put in other channels",
            evidence={"expected": due, "found": stands, **against(worst, limit, "cosine", least=bool(lost))},
        )
        return
    context.measure(image_latents=f"in {_list(stands)} of {frames} latent frames")
    yield from _scale(context, place, given, expected, name)


def _is_nearest(frame: torch.Tensor, expected: torch.Tensor, shown: int) -> bool:
    """Whether of all encoded frames, which may be much alike, none is nearer than the one that is due."""
    gaps = (expected - frame[:, None]).transpose(0, 1).flatten(1).norm(dim=1)
    return float(gaps[shown]) <= 2 * float(gaps.min()) + NEAR * float(expected[:, shown].norm())


def _list(frames: Sequence[int]) -> str:
    return ", ".join(str(frame) for frame in frames)


def _clips(
    context: Context, run: ObservedRun, call: Call
) -> tuple[ImageLatents, torch.Tensor, torch.Tensor] | str:
    """The family's rule, what the denoiser is given where it applies, and what must stand there (both float64)."""
    family, checkpoint = context.candidate.family, context.candidate.checkpoint
    component = checkpoint.components.get("vae")
    if component is None or not run.taken or not run.decoded:
        return "no image is encoded by the VAE"
    like = channels_first(run.decoded)
    told = call.arguments
    noisy = argument_clip(context, told, noisy_argument(told), like)
    if noisy is None:
        return UNKNOWN
    place = family.image_latents(checkpoint, run.probe, noisy.shape[1])
    if place is None:
        return "it is not known here where this pipeline puts it"
    channels = like.shape[0]
    given = argument_clip(context, told, place.argument, like)
    encoded = clip_of(run.taken[0], like, ("batch", "channel", "frame", "height", "width"))
    if given is None or encoded is None or encoded.shape[0] != channels:
        return UNKNOWN
    end = len(given) - place.behind
    given = given[end - channels : end] if place.beside else given[:channels]
    config = effective_config(component)
    gain, offset = (value.view(-1, 1, 1, 1) for value in vae_scale(context, config, channels))
    expected = (encoded.double() - offset) / gain * scaling_factor(config) ** (place.power - 1)
    if not bool(expected[:, 0].any()) or not bool(expected.isfinite().all()):
        return "the encoded image is zero, or not finite, which is said elsewhere"
    if any(shown is not None and shown >= expected.shape[1] for shown in place.shown):
        return "fewer frames are encoded than are given"
    return place, given.double(), expected


def _cosines(given: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Of each frame that is given with each that is encoded."""
    a, b = (value.transpose(0, 1).flatten(1) for value in (given, expected))
    a, b = (value / value.norm(dim=1, keepdim=True).clamp_min(1e-30) for value in (a, b))
    cosines: torch.Tensor = a @ b.T
    return cosines


def _scale(
    context: Context, place: ImageLatents, given: torch.Tensor, expected: torch.Tensor, name: str
) -> Iterator[Finding]:
    frame = place.shown.index(0)
    a, b = given[:, frame].flatten(), expected[:, 0].flatten()
    if float(a @ b) < SAME * float(a.norm() * b.norm()):
        return
    factor = float(a @ b / b.square().sum())
    limit = SCALE.get(context.candidate.placement.dtype, SCALE["bfloat16"])
    if abs(factor - 1) <= limit:
        return
    scaling = scaling_factor(effective_config(context.candidate.checkpoint.components["vae"]))
    yield Finding(
        "GM976",
        f"the image's latents are {factor:.3g} times what the model takes them at",
        component=name,
        location=place.argument,
        cause="they are not multiplied by the scaling factor"
        if abs(factor * scaling**place.power - 1) <= limit
        else "they are multiplied by the scaling factor twice"
        if abs(factor / scaling - 1) <= limit
        else None,
        evidence={"factor": factor, **against(abs(factor - 1), limit, "off from 1")},
    )
