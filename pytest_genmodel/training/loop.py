"""The step that the built-in trainers share: the family's objective, AdamW, gradient clipping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.placement import controlled, resolve_placement
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.residents import parameter_count
from pytest_genmodel.training.state import load_state, save_state

if TYPE_CHECKING:
    import torch

MAX_GRADIENT_NORM = 1.0
PIXELS_A_FRAME = 1


def load_for_training(reference: Path) -> Pipeline:
    """Load a pipeline of its own in float32 (a training run's master weights), every parameter frozen.

    On the accelerator where there is one; nothing is shared with a pipeline that is being judged.
    """
    import torch

    checkpoint = open_checkpoint(reference, reference.name)
    pipeline = Pipeline(checkpoint, resolve_placement("auto", "float32", "F32"))
    for part in pipeline.diffusers.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    return pipeline


def take_steps(
    pipeline: Pipeline,
    parameters: Mapping[str, torch.nn.Parameter],
    *,
    lr: float,
    steps: int,
    seed: int,
    resume: Path | None = None,
    keep_state: Path | None = None,
    wishes: ProbeWishes | None = None,
) -> None:
    """Take AdamW steps on `parameters` with the family's objective, on one synthetic clip, until `steps` are taken.

    Weight decay is off: it moves parameters that get no gradient, which would hide a dead one.

    Args:
        pipeline: what `load_for_training` gave.
        parameters: what is trained, by name.
        lr, seed: the rate of every step, and what decides noise and timesteps.
        steps: how many steps are taken in all, those before `resume` included.
        resume: the state of an earlier run (`save_state`) to go on from.
        keep_state: where the state of the last step is written.
        wishes: prompt, size and frames of the clip; what the model says of itself where None.
    """
    import torch

    wishes = wishes or ProbeWishes(seed=seed)
    probe = make_probe(wishes, pipeline.checkpoint, pipeline.family, full=False)
    clip = moving_clip(probe)
    generator = torch.Generator("cpu").manual_seed(seed)
    denoisers = pipeline.family.live_denoisers(pipeline.diffusers).values()
    for denoiser in denoisers:
        denoiser.train()
    trained = list(parameters.values())
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    with controlled(pipeline.placement.device, sum(map(parameter_count, denoisers))), quiet():
        step = load_state(resume, parameters, optimizer, generator) if resume is not None else 0
        while step < steps:
            loss = pipeline.family.training_loss(pipeline.diffusers, clip, probe.prompt, generator)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        if keep_state is not None:
            save_state(keep_state, step, parameters, optimizer, generator)
    for denoiser in denoisers:
        denoiser.eval()


def moving_clip(probe: Probe) -> torch.Tensor:
    """A clip (frames, 3, height, width) in [0, 1]: the probe's image, moving right by a pixel a frame."""
    import torch

    shifts = [probe.image.roll(frame * PIXELS_A_FRAME, dims=2) for frame in range(probe.frames)]
    return torch.stack(shifts)
