"""How much of the clean latents and how much noise the denoiser sees at a timestep; and the clean latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.conditions import posterior_mean
from pytest_genmodel.pipelines.recording import Recorder, record_pipeline

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline

NoiseLevel = Callable[[float], "tuple[float, float] | None"]
"""From a timestep to the factors of clean latents and noise; None where it is none of the schedule."""
FLOW_STEPS = 1000


def noise_level(scheduler: Any) -> NoiseLevel | None:
    """Give the factors that training with this scheduler uses; None where they are not known (continuous steps)."""
    config = scheduler.config
    if config.get("timestep_type") == "continuous":
        return None
    if "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas"):
        return lambda t: (1 - t / FLOW_STEPS, t / FLOW_STEPS) if 0 <= t <= FLOW_STEPS else None
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        return None
    signal = [float(value) for value in table.double()]

    def of_table(timestep: float) -> tuple[float, float] | None:
        if timestep != int(timestep) or not 0 <= timestep < len(signal):
            return None
        share: float = signal[int(timestep)]
        return share**0.5, (1 - share) ** 0.5

    return of_table


def clean_latents(pipeline: Pipeline, clip: torch.Tensor, prompt: str) -> torch.Tensor | None:
    """The latents that the family's own objective adds noise to, float32 on the CPU; None where it tells none.

    Args:
        pipeline: it is left as it was; nothing is denoised.
        clip: float tensor (frames, 3, height, width) in [0, 1].
        prompt: the caption.
    """
    import torch

    live, family = pipeline.diffusers, pipeline.family
    found: list[torch.Tensor] = []
    scheduler = family.training_scheduler(live)
    add_noise = getattr(scheduler, "add_noise", None)

    def watched(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(latents)
        assert add_noise is not None
        return add_noise(latents, *args, **kwargs)

    scheduler.add_noise = watched
    try:
        with torch.no_grad(), posterior_mean(getattr(live, "vae", None)):
            try:
                found.append(family.encode(live, clip, prompt).latents)
            except NotImplementedError:
                generator = torch.Generator("cpu").manual_seed(0)
                record_pipeline(
                    live,
                    family.live_denoisers(live),
                    Recorder(1, stop=True),
                    lambda: family.training_loss(live, clip, prompt, generator),
                )
    finally:
        if add_noise is None:
            del scheduler.add_noise
        else:
            scheduler.__dict__.pop("add_noise", None)
    return found[-1].detach().float().cpu() if found else None
