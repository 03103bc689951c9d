"""sound_prediction and sound_autoencoder: what only weights that were trained can be held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.cost import require_small_or_full
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.predictions import KINDS, Distances, expected_kind, predictions
from pytest_genmodel.pipelines.residents import parameter_count
from pytest_genmodel.training.loop import moving_clip

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline

CLEAR, APART = 0.8, 1.25
"""A model has learned something where its prediction is nearer than `CLEAR` to some kind (zeros are at 1, random
weights at 1.02 and more, the trained tiny model at 0.7 for a clip that it never saw); kinds lie `APART`, as a ratio,
where they can be told from each other."""
ALIKE = 0.8
"""Correlation of a clip with what comes back of it, above which an autoencoder gives it back (random ones: below
0.25, the trained tiny one: 0.94)."""
BRIGHTNESS, SHIFT = (0.6, 1.6), 0.3
SPREAD = (0.2, 5.0)
"""Standard deviation of the scaled latents of a clip: near 1 where the factor was measured on real clips; forgotten,
or applied twice, a factor of 0.18 leaves 5.5 or 0.18."""


@invariant
def sound_prediction(context: Context) -> Iterator[Finding]:
    """For a clip with known noise each denoiser predicts what the scheduler takes its output to be.

    A few calls of the denoiser. Weights that have learned nothing cannot tell: skipped, with the numbers.
    """
    pipeline = context.candidate
    if not pipeline.family.has_objective:
        context.skip(
            f"{pipeline.checkpoint.pipeline_class} is of no family with an objective here: no noise is known"
        )
    require_small_or_full(context, "a few calls of it with a whole clip")
    pipeline.require_backed()
    declared = expected_kind(pipeline.diffusers.scheduler)
    probe = context.probe
    frames = max(probe.frames, pipeline.family.geometry(pipeline.checkpoint).frames)
    found = predictions(pipeline, moving_clip(probe.but(frames=frames)), probe.prompt)
    if not found:
        context.skip(f"the objective of {pipeline.family.title} does not say which noise it adds")
    if declared not in KINDS:
        context.skip(f"the scheduler takes the model to predict {declared}, which is not known here")
    told = False
    for name in dict.fromkeys(distance.denoiser for distance in found):
        own = [distance for distance in found if distance.denoiser == name]
        middle = _middle(own)
        best = min(middle, key=lambda kind: middle[kind])
        context.measure(**{f"{name}_from": {kind: round(value, 3) for kind, value in middle.items()}})
        if middle[best] > CLEAR:
            continue
        told = True
        if middle[declared] > max(CLEAR, APART * middle[best]):
            yield Finding(
                "GM941",
                f"the {name} predicts {best} (relative distance {middle[best]:.2g}), and the scheduler takes it for "
                f"{declared} ({middle[declared]:.2g})",
                component="scheduler",
                location="scheduler_config.json:prediction_type",
                cause=f"the scheduler's configuration is that of another model, or the {name} was trained for "
                "another",
                evidence={"denoiser": name, "distances": dict(middle), "declared": declared},
            )
    if not told:
        context.skip(
            "no prediction resembles any kind of target: random weights, or trained for something else, cannot tell"
        )


def _middle(found: list[Distances]) -> dict[str, float]:
    return {kind: median(distance.by_kind[kind] for distance in found) for kind in KINDS}


@invariant
def sound_autoencoder(context: Context) -> Iterator[Finding]:
    """A clip that is encoded and decoded comes back as it was, and its scaled latents have about unit spread.

    One clip there and back. An autoencoder that gives nothing back, however the result is turned, cannot tell random
    weights from damaged ones: skipped, with the numbers.
    """
    pipeline = context.candidate
    vae = getattr(pipeline.diffusers, "vae", None)
    if vae is None:
        context.skip("the checkpoint has no autoencoder")
    pipeline.require_backed()
    frames = pipeline.family.grid(pipeline.checkpoint).frames + 1
    clip = moving_clip(context.probe.but(frames=frames))
    with controlled(pipeline.placement.device, parameter_count(vae)), quiet():
        latents, back = _there_and_back(vae, clip)
    if back.shape != clip.shape and not pipeline.family.is_known:
        context.skip(f"nothing is known here of the frames that a {pipeline.checkpoint.pipeline_class} takes")
    if back.shape != clip.shape:
        yield Finding(
            "GM939",
            f"a clip of {list(clip.shape)} comes back as {list(back.shape)}",
            component="vae",
            location="frames",
        )
        return
    alike = {name: _correlation(change(back), clip) for name, change in TURNED.items()}
    best = max(alike, key=lambda name: alike[name])
    context.measure(back={name: round(value, 3) for name, value in alike.items()})
    if alike[best] < ALIKE:
        context.skip(
            f"what comes back resembles the clip in no way (correlation {alike[best]:.2f} at best): random weights "
            "cannot be told apart from damaged ones"
        )
    if best != "as it is" and alike["as it is"] < alike[best] - 0.1:
        yield Finding(
            "GM942",
            f"a clip comes back {best}: correlation {alike[best]:.2f}, as it is {alike['as it is']:.2f}",
            component="vae",
            location="vae.decode",
            evidence={"correlations": alike},
        )
        return
    yield from _levels(back, clip)
    yield from _spread(context, pipeline, latents)


def _there_and_back(vae: Any, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mode of the posterior, and what is decoded from it: (frame, 3, height, width), in [0, 1] if all is well."""
    import inspect

    import torch

    pictures = clip.to(vae.device, vae.dtype) * 2 - 1
    first = next(layer for layer in vae.encoder.modules() if hasattr(layer, "kernel_size"))
    if not isinstance(first, torch.nn.Conv2d):
        pictures = pictures.permute(1, 0, 2, 3).unsqueeze(0)
    with torch.no_grad():
        encoded = vae.encode(pictures)
        posterior = getattr(encoded, "latent_dist", None)
        latents = encoded.latent if posterior is None else posterior.mode()
        more = {"num_frames": len(clip)} if "num_frames" in inspect.signature(vae.decode).parameters else {}
        if getattr(vae.config, "timestep_conditioning", False):
            more["temb"] = latents.new_zeros(1)
        back = vae.decode(latents, return_dict=False, **more)[0].float().cpu()
    back = back[0].transpose(0, 1) if back.ndim == 5 else back
    return latents.float().cpu(), (back + 1) / 2


TURNED: Mapping[str, Callable[[Any], Any]] = {
    "as it is": lambda frames: frames,
    "with red and blue exchanged": lambda frames: frames.flip(1),
    "inverted": lambda frames: 1 - frames,
    "mirrored": lambda frames: frames.flip(3),
    "upside down": lambda frames: frames.flip(2),
    "in reverse": lambda frames: frames.flip(0),
    "with height and width exchanged": lambda frames: frames.transpose(2, 3),
}


def _correlation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    if ours.shape != theirs.shape:
        return 0.0
    a, b = (value.double().flatten() for value in (ours, theirs))
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 1e-9 else 0.0


def _levels(back: torch.Tensor, clip: torch.Tensor) -> Iterator[Finding]:
    """Contrast and brightness."""
    a, b = (value.double().flatten() for value in (back, clip))
    centred = b - b.mean()
    gain = float(centred @ (a - a.mean()) / centred.square().sum().clamp_min(1e-12))
    shift = float(a.mean() - b.mean())
    if BRIGHTNESS[0] <= gain <= BRIGHTNESS[1] and abs(shift) <= SHIFT:
        return
    yield Finding(
        "GM942",
        f"a clip comes back with {gain:.2f} of its contrast and {shift:+.2f} of brightness (of 1)",
        component="vae",
        location="vae.decode",
        cause="pixels are decoded to 0 to 1, where -1 to 1 is meant"
        if abs(gain - 0.5) < 0.15
        else "a scale is applied inside the autoencoder, or not at all",
        evidence={"gain": gain, "shift": shift},
    )


def _spread(context: Context, pipeline: Pipeline, latents: torch.Tensor) -> Iterator[Finding]:
    """The latents that the denoiser works on: (z - mean) / std x scaling_factor."""
    import torch

    from pytest_genmodel.pipelines.effective import effective_config

    config = effective_config(pipeline.checkpoint.components["vae"])
    held = dict(pipeline.diffusers.vae.named_buffers())
    mean, std = (
        held.get(name) if config.get(name) is None else config[name]
        for name in ("latents_mean", "latents_std")
    )
    shape = (1, -1, *(1,) * (latents.ndim - 2))
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(value).float().cpu().view(shape) for value in (mean, std))
        latents = (latents - mean) / std
    factor = float(config.get("scaling_factor") or 1.0)
    spread = float(latents.std()) * factor
    context.measure(latent_spread=round(spread, 3))
    if not SPREAD[0] <= spread <= SPREAD[1]:
        yield Finding(
            "GM943",
            f"the scaled latents of a clip have the standard deviation {spread:.2g}; the noise has 1",
            component="vae",
            location="config.json:scaling_factor",
            cause=f"scaling_factor is {factor:g}, and 1 / {float(latents.std()):.3g} = "
            f"{1 / max(float(latents.std()), 1e-9):.3g} would give unit spread",
            evidence={"spread": spread, "scaling_factor": factor},
        )
