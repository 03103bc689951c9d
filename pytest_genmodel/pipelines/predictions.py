"""What a denoiser predicts for a clip whose noise is known, beside what each kind of prediction would be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.noise_level import noise_level
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.residents import parameter_count

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline

KINDS = ("epsilon", "sample", "v_prediction", "flow_prediction")
SHARES = (0.25, 0.4, 0.55, 0.7)
"""Noise levels that are tried, as shares of what a denoiser is trained for: where signal and noise are of one size,
so that the kinds of prediction lie far apart."""
DRAWS = 6
"""Timesteps that are drawn where the family's own objective draws them."""


@dataclass(frozen=True)
class Distances:
    """Relative distance of one prediction from each kind, by name; a prediction of zero is at 1 from all."""

    denoiser: str
    signal: float
    noise: float
    by_kind: Mapping[str, float]


def expected_kind(scheduler: Any) -> str:
    """What the scheduler takes the model to predict, by its configuration and class."""
    config = scheduler.config
    if "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas"):
        return "flow_prediction"
    return str(config.get("prediction_type", "epsilon"))


def predictions(pipeline: Pipeline, clip: torch.Tensor, prompt: str) -> list[Distances]:
    """Add noise at a few levels and ask each denoiser; a few calls of it, without gradients.

    Args:
        pipeline: of a family with an objective; it is left as it was.
        clip: float (frame, 3, height, width) in [0, 1].
        prompt: the caption.

    Returns:
        Empty where the family's objective does not say which noise it added.
    """
    import torch

    live, family = pipeline.diffusers, pipeline.family
    size = sum(parameter_count(model) for model in family.live_denoisers(live).values())
    with controlled(pipeline.placement.device, size), quiet(), torch.no_grad():
        try:
            encoded = family.encode(live, clip, prompt)
        except NotImplementedError:
            return list(_by_objective(pipeline, clip, prompt))
        return list(_by_level(pipeline, encoded))


def _by_level(pipeline: Pipeline, encoded: Any) -> Iterator[Distances]:
    """Flow matching: noisy = (1 - sigma) clean + sigma noise."""
    import torch

    live, family = pipeline.diffusers, pipeline.family
    latents = encoded.latents
    for number, name in enumerate(family.live_denoisers(live)):
        low, high = family.noise_levels(live, name)
        for place, share in enumerate(SHARES):
            generator = torch.Generator("cpu").manual_seed(100 * number + place)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            sigma = torch.full((1,), low + (high - low) * share).to(latents)
            noisy = (1 - sigma) * latents + sigma * noise
            if encoded.clean is not None:
                noisy = torch.where(encoded.clean.bool(), latents, noisy)
            output = family.predict(live, name, noisy, sigma, encoded)
            asked = None if encoded.clean is None else 1 - encoded.clean.float()
            yield _distances(name, output, latents, noise, 1 - float(sigma), float(sigma), asked)


def _by_objective(pipeline: Pipeline, clip: torch.Tensor, prompt: str) -> Iterator[Distances]:
    """The family's own loss, with the scheduler's `add_noise` and the denoiser watched."""
    import torch

    live, family = pipeline.diffusers, pipeline.family
    scheduler = family.training_scheduler(live)
    level = noise_level(scheduler)
    if level is None:
        return
    name, model = next(iter(family.live_denoisers(live).items()))
    add_noise = scheduler.add_noise
    for seed in range(DRAWS):
        seen: dict[str, Any] = {}

        def adding(clean: Any, noise: Any, timestep: Any, seen: dict[str, Any] = seen) -> Any:
            seen.update(clean=clean, noise=noise, timestep=float(timestep.flatten()[0]))
            return add_noise(clean, noise, timestep)

        def after(_: Any, arguments: Any, output: Any, seen: dict[str, Any] = seen) -> None:
            seen["output"] = output[0]

        handle = model.register_forward_hook(after)
        scheduler.add_noise = adding
        try:
            family.training_loss(live, clip, prompt, torch.Generator("cpu").manual_seed(seed))
        finally:
            handle.remove()
            del scheduler.add_noise
        factors = level(seen["timestep"]) if "timestep" in seen else None
        if factors is not None and "output" in seen:
            yield _distances(name, seen["output"], seen["clean"], seen["noise"], *factors, None)


def _distances(
    name: str,
    output: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    signal: float,
    level: float,
    asked: torch.Tensor | None,
) -> Distances:
    import torch

    output, clean, noise = (value.double().cpu() for value in (output, clean, noise))
    kept = torch.ones_like(clean) if asked is None else asked.double().cpu().expand_as(clean)
    targets = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": signal * noise - level * clean,
        "flow_prediction": noise - clean,
    }
    found = {
        kind: float(((output - target) * kept).norm() / (target * kept).norm().clamp_min(1e-12))
        for kind, target in targets.items()
    }
    return Distances(name, signal, level, found)
