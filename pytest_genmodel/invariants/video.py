"""sound_video: what can be seen of the candidate's videos lies where the reference's own lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from math import inf, isfinite

from pytest_genmodel.baselines.observations import Seen
from pytest_genmodel.baselines.record import clip_probes
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.cost import require_small_or_full
from pytest_genmodel.invariants.divergence import after_difference
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.curves import curves
from pytest_genmodel.pipelines.observables import Observables, mean, observe, psnr, spread, ssim
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.pipelines.tracing import Side

SPREADS = 4.0
"""How many times the reference's own range over the seeds an observable may be away. Below it lie the limits that
hold however narrow that range is; each is half of the smallest effect of a fault that was measured on the trained
tiny model (8 steps, 17 frames, 3 seeds), and more than three times that of an honest fine-tune."""
SMOOTHNESS = 0.015
"""Measured: 0.960 healthy; 0.93 with two projections swapped, 0.73 with a table of noise."""
FIDELITY = 6.0
"""dB. Measured: 36 healthy; 15 with the image's channels dead, 20 with another model's latent scale."""
BRIGHTNESS = 0.05
CONTRAST = 0.2
"""Relative. Measured: 0.31 with a decoder whose last layer is scaled by 1.3."""
STILL, RESTLESS = 0.25, 3.0
"""Motion relative to the reference's."""
FLICKER = 3.0
LATENT_SCALE = 2.0
"""Ratio of the latents' standard deviations after one and the same step."""
IDENTICAL_PSNR = 40.0
"""dB. The same weights rounded to bfloat16 stay at 60, a fine-tune of 200 steps at 40."""


@invariant(needs_reference=True, takes_baseline=True)
def sound_video(
    context: Context, *, seeds: int = 3, steps: int = 8, frames: int | None = None
) -> Iterator[Finding]:
    """The candidate's videos are no noisier, stiller, darker or further from the input image than the reference's.

    Both sample whole clips with the same seeds; the limits come from the reference's own range over the seeds. Two
    checkpoints of equal content make equal videos: then nothing is sampled. A baseline holds the numbers of the
    default clips, and no frames of them.
    """
    if type(seeds) is not int or seeds < 2:
        raise BadInputError(f"seeds={seeds!r}: the reference's own range takes two seeds or more")
    candidate, trusted = context.candidate, context.trusted
    if candidate.digest == trusted.digest and not context.is_full:
        context.measure(proven="equal content: the videos are equal")
        return
    require_small_or_full(context, "sampling whole clips of it")
    probes = clip_probes(context.probe, candidate, seeds, steps, frames)
    theirs = [seen for probe in probes if (seen := trusted.seen(probe)) is not None]
    if len(theirs) < len(probes):
        context.skip("the baseline holds no clips of these seeds, steps and frames (--genmodel-ref)")
    ours = [candidate.sample(probe) for probe in probes]
    found = [
        *_latents(ours, theirs),
        *_seen(context, probes, ours, theirs),
        *_beside(context, ours, theirs),
    ]
    yield from found
    if context.has_reference:
        reference = context.reference
        pair = ours[0], reference.sample(probes[0])
        context.measure(divergence=curves(*pair))
        yield from after_difference(context, Side(candidate), Side(reference), probes[0], pair, found)


def _latents(ours: list[Sample], theirs: list[Seen]) -> Iterator[Finding]:
    for step in range(min(len(ours[0].latents), len(theirs[0].spreads))):
        mine = sum(float(sample.latents[step].std()) for sample in ours)
        if not isfinite(mine):
            yield Finding(
                "GM925",
                f"after step {step + 1} the latents hold values that are no numbers; the reference's hold none",
                location=f"step {step + 1}",
            )
            return
        other = sum(seen.spreads[step] for seen in theirs)
        ratio = mine / other if other else float("inf")
        if not 1 / LATENT_SCALE <= ratio <= LATENT_SCALE:
            yield Finding(
                "GM925",
                f"after step {step + 1} the latents spread {ratio:.3g} times as wide as the reference's (limit "
                f"{LATENT_SCALE:g} times or its inverse)",
                location=f"step {step + 1}",
                evidence={
                    "ratio": ratio,
                    **against(max(ratio, 1 / ratio if ratio else inf), LATENT_SCALE, "times apart"),
                },
            )
            return


def _seen(context: Context, probes: list[Probe], ours: list[Sample], theirs: list[Seen]) -> Iterator[Finding]:
    own = [seen.observables for seen in theirs]
    healthy, range_ = mean(own), spread(own)
    seen = mean([observe(sample.frames, probe.image) for sample, probe in zip(ours, probes, strict=True)])
    context.measure(
        seeds=len(probes), observed=_rounded(seen), reference=_rounded(healthy), spread=_rounded(range_)
    )

    def beyond(name: str, least: float) -> bool:
        return bool(
            abs(getattr(seen, name) - getattr(healthy, name)) > max(least, SPREADS * getattr(range_, name))
        )

    def told(
        code: str, name: str, what: str, least: float, location: str = "frames", times: float | None = None
    ) -> Finding:
        a, b = getattr(seen, name), getattr(healthy, name)
        away = against(
            abs(a - b), max(least, SPREADS * getattr(range_, name)), f"{name} from the reference's"
        )
        if times is not None and b:
            away = against(a / b, times, f"times the reference's {name}", least=times < 1)
        return Finding(
            code,
            f"{what}: {name} {a:.4g}, the reference's {b:.4g} (over {len(probes)} seeds; its own range is "
            f"{getattr(range_, name):.2g})",
            location=location,
            evidence={"observable": name, "candidate": a, "reference": b, **away},
        )

    noisy = seen.smoothness < healthy.smoothness and beyond("smoothness", SMOOTHNESS)
    if noisy:
        frame = _noisiest(ours, probes)
        what = f"neighbouring pixels agree less, frame {frame} least"
        yield told("GM920", "smoothness", what, SMOOTHNESS, f"frame {frame}")
    if seen.motion < STILL * healthy.motion and beyond("motion", 0.0):
        yield told("GM921", "motion", "the video stands still", 0.0, times=STILL)
    elif not noisy and seen.motion > RESTLESS * healthy.motion and beyond("motion", 0.0):
        yield told("GM922", "motion", "the video is restless", 0.0, times=RESTLESS)
    if not noisy and seen.flicker > FLICKER * healthy.flicker and beyond("flicker", 1e-3):
        yield told("GM922", "flicker", "the brightness of whole frames jumps", 1e-3, times=FLICKER)
    if seen.fidelity < healthy.fidelity and beyond("fidelity", FIDELITY):
        what = "the first frame is further from the input image, in dB"
        yield told("GM924", "fidelity", what, FIDELITY, "frame 0")
    if beyond("brightness", BRIGHTNESS):
        yield told("GM923", "brightness", "the video is lighter or darker", BRIGHTNESS)
    if beyond("contrast", CONTRAST * healthy.contrast):
        yield told("GM923", "contrast", "the video has another contrast", CONTRAST * healthy.contrast)


def _noisiest(ours: list[Sample], probes: list[Probe]) -> int:
    frames, image = ours[0].frames, probes[0].image
    return min(range(len(frames)), key=lambda frame: observe(frames[frame : frame + 1], image).smoothness)


def _beside(context: Context, ours: list[Sample], seen: list[Seen]) -> Iterator[Finding]:
    """Frame beside frame, under one seed: a measurement; a finding where the two are said to be the same model."""
    theirs = [one.frames for one in seen if one.frames is not None]
    if len(theirs) < len(ours):
        context.measure(frame_by_frame="not compared: the baseline holds no frames of whole clips")
        return
    worst = min(
        (psnr(a, b), number, frame)
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True))
        for frame, (a, b) in enumerate(zip(mine.frames, other, strict=False))
    )
    similar = min(min(ssim(mine.frames, other)) for mine, other in zip(ours, theirs, strict=True))
    context.measure(least_psnr=round(worst[0], 1), least_ssim=round(similar, 4))
    if context.policy.expect == "identical" and worst[0] < IDENTICAL_PSNR:
        yield Finding(
            "GM926",
            f"frame {worst[2]} is {worst[0]:.1f} dB from the reference's under one seed "
            f"(limit {IDENTICAL_PSNR:g} dB; least SSIM of a frame {similar:.3f})",
            location=f"frame {worst[2]}",
            evidence={
                "psnr": worst[0],
                "ssim": similar,
                **against(worst[0], IDENTICAL_PSNR, "dB", least=True),
            },
        )


def _rounded(values: Observables) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(values).items()}
