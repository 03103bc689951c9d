"""conditions_matter and tensors_matter: what the model is given, and what it is made of, has an effect."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.diagnosis.finding import Finding, name_evidence
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.cost import LARGEST_QUICK, require_small_or_full
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.alive import autoencoder_loss, call_loss, dead_tensors
from pytest_genmodel.pipelines.component_calls import record_sample
from pytest_genmodel.pipelines.curves import distance
from pytest_genmodel.pipelines.families.call import call_parameters
from pytest_genmodel.pipelines.library import class_named, quiet
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.residents import parameter_count
from pytest_genmodel.training.loop import moving_clip

WEAK = 0.1
"""A condition has lost its strength where its effect is this share of the reference's: an honest fine-tune changes it
by less than a half, a branch that is dead but for rounding leaves less than 1e-3."""
OTHER_PROMPT = "a blue boat on the water, seen from above"
PROMPT = "a red square moves right"
"""Asked for where the probe's prompt says nothing, or what the negative one says: guidance has no effect then, and
over a single token attention has nothing to choose from."""


@invariant
def conditions_matter(context: Context, *, steps: int = 2) -> Iterator[Finding]:
    """Another image, prompt, negative prompt or guidance gives another sample, about as much as the reference's.

    One short sample for each condition that the pipeline takes, and one to compare with; as many of the reference
    where its content differs.
    """
    if type(steps) is not int or steps < 1:
        raise BadInputError(f"steps={steps!r}: a sample takes at least one step")
    probe = _with_words(context.probe).but(steps=steps)
    changed = _changed(context.candidate, probe)
    if not changed:
        context.skip(
            f"{context.candidate.checkpoint.pipeline_class} takes no image, no prompt and no guidance"
        )
    effects = {name: _effect(context.candidate, probe, other) for name, other in changed.items()}
    context.measure(effects={name: round(effect, 6) for name, effect in effects.items()})
    for name, effect in effects.items():
        if effect == 0.0:
            yield Finding(
                "GM910",
                f"another {name} gives the same latents, bit for bit",
                component=_owner(context.candidate, name),
                location=name,
            )
    if context.has_reference and context.reference.digest != context.candidate.digest:
        yield from _weaker(context, probe, changed, effects)


def _with_words(probe: Probe) -> Probe:
    says_nothing = not probe.prompt.strip() or probe.prompt == probe.negative_prompt
    return probe.but(prompt=PROMPT) if says_nothing else probe


def _changed(pipeline: Pipeline, probe: Probe) -> dict[str, Probe]:
    names = call_parameters(class_named("diffusers", str(pipeline.checkpoint.pipeline_class)))
    taken = set(names) - pipeline.family.without_effect(pipeline.checkpoint)
    changed: dict[str, Probe] = {}
    if "image" in taken or "video" in taken:
        changed["image"] = probe.but(image=(1 - probe.image).flip(-1))
    if "prompt" in taken:
        changed["prompt"] = probe.but(prompt=OTHER_PROMPT if probe.prompt != OTHER_PROMPT else PROMPT)
    guided = "guidance_scale" in taken and probe.guidance > 1
    if guided and "negative_prompt" in taken:
        changed["negative prompt"] = probe.but(negative_prompt=OTHER_PROMPT)
    if guided:
        changed["guidance scale"] = probe.but(guidance=probe.guidance + 1)
    return changed


def _effect(pipeline: Pipeline, probe: Probe, other: Probe) -> float:
    """Relative distance of the latents after the last step."""
    return distance(pipeline.sample(other).latents[-1], pipeline.sample(probe).latents[-1])


def _owner(pipeline: Pipeline, name: str) -> str | None:
    """The component to look at first."""
    encoders = {"image": ("image_encoder", "vae"), "guidance scale": ()}.get(name, ("text_encoder",))
    return next((part for part in encoders if part in pipeline.components), None)


def _weaker(
    context: Context, probe: Probe, changed: dict[str, Probe], effects: dict[str, float]
) -> Iterator[Finding]:
    theirs = {name: _effect(context.reference, probe, other) for name, other in changed.items()}
    context.measure(reference_effects={name: round(effect, 6) for name, effect in theirs.items()})
    for name, effect in effects.items():
        if 0.0 < effect < WEAK * theirs[name]:
            yield Finding(
                "GM911",
                f"another {name} changes the latents by {effect:.2g} (relative), the reference's by "
                f"{theirs[name]:.2g}",
                component=_owner(context.candidate, name),
                location=name,
                evidence={
                    "effect": effect,
                    "reference": theirs[name],
                    **against(effect / theirs[name], WEAK, "of the reference's effect", least=True),
                },
            )


@invariant
def tensors_matter(context: Context) -> Iterator[Finding]:
    """Every stored tensor of denoiser, VAE and encoders has a part in what they compute.

    One training step's gradient for the denoiser, one clip through the autoencoder and back, and for each encoder of
    text or image one call as a sample makes it; nothing is changed. An encoder too large for the quick level is left
    out, and named. A tensor that no gradient reaches is loaded and never read, or hidden behind zeros.
    """
    pipeline = context.candidate
    if not pipeline.family.has_objective:
        context.skip(
            f"{pipeline.checkpoint.pipeline_class} is of no family with an objective here: nothing to differentiate"
        )
    require_small_or_full(context, "a gradient of it")
    pipeline.require_backed()
    looked_at = 0
    for name, tensors, dead in _dead(context, pipeline):
        looked_at += tensors
        unread = [tensor for tensor in dead if not _is_known(pipeline, name, tensor)]
        if unread:
            yield Finding(
                "GM912",
                f"{len(unread)} of {tensors} tensors have no influence on what the {name} computes: "
                f"{summarise(unread)}",
                component=name,
                location=unread[0],
                cause=_hidden_by(pipeline, name, unread),
                evidence=name_evidence(unread),
            )
    context.measure(tensors=looked_at)


def _dead(context: Context, pipeline: Pipeline) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Name, number of stored tensors and dead ones of each component that is looked at."""
    import torch

    probe, family, live = _with_words(context.probe), pipeline.family, pipeline.diffusers
    # Tables that were learned for the trained size are not read at any other.
    probe = probe.but(frames=max(probe.frames, family.geometry(pipeline.checkpoint).frames))
    clip = moving_clip(probe)

    def objective() -> Any:
        return family.training_loss(live, clip, probe.prompt, torch.Generator("cpu").manual_seed(probe.seed))

    with controlled(pipeline.placement.device, 0), quiet():
        for name in pipeline.denoisers:
            model = getattr(live, name)
            yield name, len(model.state_dict()), dead_tensors(model, objective)
        if (vae := getattr(live, "vae", None)) is not None:
            short = clip[: family.grid(pipeline.checkpoint).frames + 1]
            yield "vae", len(vae.state_dict()), dead_tensors(vae, lambda: autoencoder_loss(vae, short))
    yield from _dead_of_encoders(context, pipeline)


def _dead_of_encoders(context: Context, pipeline: Pipeline) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """As `_dead`, of the models that a sample calls before it denoises."""
    left_out = []
    for call in record_sample(pipeline, _with_words(context.probe).but(steps=2)).components:
        name = call.component
        if name in pipeline.denoisers or name == "vae" or call.method != "forward":
            continue
        model = pipeline.component(name)
        if not context.is_full and parameter_count(model) > LARGEST_QUICK:
            left_out.append(name)
            continue
        with controlled(pipeline.placement.device, 0), quiet():
            dead = dead_tensors(model, partial(call_loss, model, call))
        yield name, len(model.state_dict()), dead
    if left_out:
        context.measure(left_out=f"{', '.join(left_out)}: needs --genmodel-level=full")


def _is_known(pipeline: Pipeline, component: str, tensor: str) -> bool:
    return any(fnmatchcase(f"{component}.{tensor}", pattern) for pattern in pipeline.family.unread)


def _hidden_by(pipeline: Pipeline, component: str, dead: list[str]) -> str | None:
    """Zeros that everything before them is multiplied with, where there are any."""
    state = getattr(pipeline.diffusers, component).state_dict()
    zero = [name for name, tensor in state.items() if tensor.ndim > 1 and not bool(tensor.any())]
    if zero:
        return f"{summarise(zero)} hold nothing but zeros: what stands before them cannot be seen"
    return "the model that reads the file has no use for them: another version of the class, or a branch that is off"
