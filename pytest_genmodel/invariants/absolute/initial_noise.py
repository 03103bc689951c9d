"""GM971 to GM973 and GM977: the noise that the denoiser is given first.

It is standard normal, whatever the family: variance-preserving and flow-matching schedules begin with nothing else,
and of those whose levels explode the denoiser sees the sample over sqrt(level^2 + 1), which leaves
level / sqrt(level^2 + 1) of the noise, or all of it where the pipeline begins with a sample of that size. What is
drawn is watched, so that a factor or an offset between the draw and the denoiser shows in however few values; the
rest are tests.

Each of the five tests alarms a healthy model with a probability of `ALARM` at most, all of them of 5e-7. For n
independent standard normal values: P(|mean| >= z / sqrt(n)) <= 2 exp(-z^2 / 2); for their sum of squares S
P(S - n >= 2 sqrt(n x) + 2 x) <= exp(-x) and P(n - S >= 2 sqrt(n x)) <= exp(-x) (Laurent and Massart, Annals of
Statistics 28, 2000, lemma 1). The cosine of two independent directions in m dimensions:
P(|cosine| >= c) <= (1 - c^2)^((m - 1) / 2) for c >= sqrt(2 / m) (the cap of a sphere), times the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log, sqrt
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.absolute.again import Again
from pytest_genmodel.invariants.absolute.layout import (
    UNKNOWN,
    argument_clip,
    channels_first,
    clip_of,
    noisy_argument,
)
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.curves import distance
from pytest_genmodel.pipelines.observed_run import ObservedRun
from pytest_genmodel.pipelines.recording import Argument

if TYPE_CHECKING:
    import torch

ALARM = 1e-7
"""Probability that a test alarms although the noise is what it must be."""
SCALE = 1e-2
"""How far factor and offset may be from what they must be: HunyuanVideo mixes 0.001 of the image in."""
SOUND = "audio_hidden_states"
SAME = 1e-3
"""Relative difference that the same latents may have in two halves (measured: 0)."""
REST = 5e-2
"""Share of what was drawn that a factor and an offset may leave over, to be called the same draw (bfloat16: 4e-3)."""


def initial_noise_findings(context: Context, run: ObservedRun, again: Again) -> Iterator[Finding]:
    """Frame by frame another, another for another seed, and of unit variance without a mean."""
    noise = _noise(context, run, run.denoised[0].call.arguments) if run.denoised else None
    if noise is None:
        context.measure(initial_noise=f"not judged: {UNKNOWN}")
        return
    where = noisy_argument(run.denoised[0].call.arguments)
    name = run.denoised[0].call.model
    found = [*_repeated(noise, name, where)]
    if not found:
        found = [*_of_the_seed(noise, _noise(context, run, again.told[0]), name, where)]
    drawn = _drawn(context, run, noise)
    found += _of_each_half(context, run, noise, name, where)
    if drawn is not None:
        found += _scaled(context, drawn, name, where)
    else:
        found += _moments(noise, name, where, _least_factor(context))
    found += _of_the_sound(context, run, name)
    context.measure(
        initial_noise=f"{noise.numel()} values, "
        + ("as they were drawn" if drawn is not None else "judged by mean and spread alone")
    )
    yield from found


def _noise(
    context: Context, run: ObservedRun, told: Mapping[str, Argument], row: int = -1
) -> torch.Tensor | None:
    """(channel, frame, height, width) without the frames that are the image's, float64."""
    if not run.decoded or not context.candidate.family.is_known:
        return None
    like = channels_first(run.decoded)
    clip = argument_clip(context, told, noisy_argument(told), like, row)
    if clip is None or clip.shape[0] < like.shape[0]:
        return None
    place = _frames_of_noise(context, run, clip.shape[1])
    return clip[: like.shape[0]][:, place].double() if place else None


def _frames_of_noise(context: Context, run: ObservedRun, frames: int) -> list[int]:
    family, checkpoint = context.candidate.family, context.candidate.checkpoint
    image = family.image_latents(checkpoint, run.probe, frames)
    if image is None:
        return [] if family.image_enters else list(range(frames))
    if image.beside:
        return list(range(frames))
    return [frame for frame, shown in enumerate(image.shown) if shown is None]


def least_alike(size: int, pairs: int) -> float:
    """The cosine that none of so many pairs of independent directions reaches, but with probability `ALARM`."""
    if size < 2:
        return 1.0
    return max(sqrt(max(0.0, 1 - (ALARM / pairs) ** (2 / (size - 1)))), sqrt(2 / size))


def _repeated(noise: torch.Tensor, name: str, where: str) -> Iterator[Finding]:
    frames = noise.transpose(0, 1).flatten(1)
    count, size = frames.shape
    if count < 2:
        return
    unit = frames / frames.norm(dim=1, keepdim=True).clamp_min(1e-30)
    alike = (unit @ unit.T).abs().triu(1)
    worst, limit = float(alike.max()), least_alike(size, count * (count - 1) // 2)
    if worst > limit:
        first, second = divmod(int(alike.argmax()), count)
        same = int((alike > limit).sum())
        yield Finding(
            "GM972",
            f"frames {first} and {second} of the noise that the {name} is first given have a cosine of {worst:.3f}, "
            f"and independent noise has {limit:.3f} at most ({same} of {count * (count - 1) // 2} pairs are alike)",
            component=name,
            location=where,
            cause="one frame of noise is used for every frame" if worst > 0.999 else None,
            evidence={"pairs": same, **against(worst, limit, "cosine of two frames")},
        )


def _of_the_seed(noise: torch.Tensor, other: torch.Tensor | None, name: str, where: str) -> Iterator[Finding]:
    if other is None or other.shape != noise.shape:
        return
    size = float((noise.norm() * other.norm()).clamp_min(1e-30))
    alike, limit = abs(float((noise * other).sum())) / size, least_alike(noise.numel(), 1)
    if alike > limit:
        yield Finding(
            "GM973",
            f"two seeds give the {name} the same noise (cosine {alike:.3f}; independent noise: {limit:.3f} at most)",
            component=name,
            location=where,
            cause="the noise is drawn from a generator of the library's own, and not from the one that was given",
            evidence=against(alike, limit, "cosine of two seeds' noise"),
        )


def _of_each_half(
    context: Context, run: ObservedRun, noise: torch.Tensor, name: str, where: str
) -> Iterator[Finding]:
    """What guidance compares are two predictions for the same latents: two rows of a call, or two calls."""
    in_step = [seen for seen in run.denoised if seen.step == 0]
    other = _noise(context, run, in_step[-1].call.arguments, row=0)
    if other is None or other.shape != noise.shape:
        return
    gap = distance(other, noise)
    if gap > SAME:
        yield Finding(
            "GM977",
            f"the two halves of guidance begin with latents that differ by {gap:.2g} (relative, limit {SAME:g})",
            component=name,
            location=where,
            cause="each half is given noise of its own" if gap > 1 else None,
            evidence=against(gap, SAME, "relative difference"),
        )


def _drawn(
    context: Context, run: ObservedRun, noise: torch.Tensor
) -> tuple[float, float, torch.Tensor] | None:
    """Factor and offset by which the noise is something that was drawn, and that; None where it is nothing of it."""
    for value in run.drawn:
        clip = clip_of(value, noise, context.candidate.family.latent_axes) if value.ndim > 2 else None
        if clip is None or clip.shape[0] != noise.shape[0]:
            continue
        place = _frames_of_noise(context, run, clip.shape[1])
        if len(place) != noise.shape[1]:
            continue
        if (found := _fitted(clip[:, place].double(), noise)) is not None:
            return found
    return None


def _fitted(drawn: torch.Tensor, noise: torch.Tensor) -> tuple[float, float, torch.Tensor] | None:
    centred, moved = drawn - drawn.mean(), noise - noise.mean()
    factor = float((centred * moved).sum() / centred.square().sum().clamp_min(1e-30))
    rest = float((moved - factor * centred).norm() / moved.norm().clamp_min(1e-30))
    return (factor, float(noise.mean() - factor * drawn.mean()), drawn) if rest <= REST else None


def _of_the_sound(context: Context, run: ObservedRun, name: str) -> Iterator[Finding]:
    """LTX-2: (batch, frame, channel x band) of a sound track, drawn as (batch, channel, frame, band)."""
    held = run.denoised[0].call.tensors.get(SOUND)
    if held is None or not held.whole:
        return
    noise = held.values[-1:].double()
    for value in run.drawn:
        packed = value.transpose(1, 2).flatten(2).double() if value.ndim == 4 else value
        if packed.shape == noise.shape and (found := _fitted(packed, noise)) is not None:
            yield from _scaled(context, found, name, SOUND)
            return
    yield from _moments(noise, name, SOUND)


def _least_factor(context: Context) -> float:
    """What the first level leaves of the noise in what the denoiser sees; 1 where levels do not explode."""
    sigmas = getattr(context.candidate.diffusers.scheduler, "sigmas", None)
    level = float(sigmas[0]) if sigmas is not None and len(sigmas) else 0.0
    return level / sqrt(level**2 + 1) if level > 1.0 else 1.0


def _scaled(
    context: Context, drawn: tuple[float, float, torch.Tensor], name: str, where: str
) -> Iterator[Finding]:
    factor, offset, given = drawn
    if _least_factor(context) - SCALE <= factor <= 1 + SCALE and abs(offset) <= SCALE:
        yield from _moments(given, name, where)
        return
    scaled = abs(factor - 1) > SCALE
    yield Finding(
        "GM971",
        f"the noise that the {name} is first given is {factor:.3g} times what was drawn"
        + ("" if abs(offset) <= SCALE else f", and {offset:+.2g}")
        + "; it must be of unit variance and without a mean",
        component=name,
        location=where,
        cause="the noise is scaled between the draw and the denoiser, by another factor than the schedule's first "
        "level"
        if scaled
        else "something is added to the noise",
        evidence={
            "factor": factor,
            "offset": offset,
            **against(abs(factor - 1) if scaled else abs(offset), SCALE, "off from 1" if scaled else "mean"),
        },
    )


def _moments(noise: torch.Tensor, name: str, where: str, least: float = 1.0) -> Iterator[Finding]:
    """Mean and mean square; the noise is scaled by `least` to 1."""
    count, x = noise.numel(), log(1 / ALARM)
    mean, square = float(noise.mean()), float(noise.square().mean())
    at_most = sqrt(2 * log(2 / ALARM) / count) + SCALE
    low, high = (
        least**2 - 1 - 2 * sqrt(x / count) - 2 * SCALE,
        2 * sqrt(x / count) + 2 * x / count + 2 * SCALE,
    )
    if abs(mean) > at_most:
        what, evidence = f"a mean of {mean:+.3g}", against(abs(mean), at_most, "mean")
    elif not low <= square - 1 <= high:
        what = f"a mean square of {square:.3g}"
        evidence = against(abs(square - 1), high if square > 1 else -low, "off from a mean square of 1")
    else:
        return
    yield Finding(
        "GM971",
        f"the noise that the {name} is first given has {what} over {count} values; standard normal noise has 0 and 1",
        component=name,
        location=where,
        evidence={"mean": mean, "mean_square": square, "values": count, **evidence},
    )
