"""Full fine-tuning: every parameter of the denoisers, saved as a whole pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.pipelines.probing import ProbeWishes
from pytest_genmodel.pipelines.saving import save
from pytest_genmodel.training.loop import load_for_training, take_steps

if TYPE_CHECKING:
    import torch


def train_full(
    reference: Path,
    *,
    lr: float,
    steps: int,
    seed: int,
    output: Path,
    resume: Path | None = None,
    keep_state: bool = False,
    wishes: ProbeWishes | None = None,
) -> Path:
    """Train every parameter of every denoiser and save the pipeline under `output`; see `trainers.Trainer`.

    `wishes` says what clip is trained on, where the model does not say its size itself.

    Raises:
        BadInputError: no state of this trainer lies in `resume`.
    """
    pipeline = load_for_training(reference)
    parameters: dict[str, torch.nn.Parameter] = {}
    for name, denoiser in pipeline.family.live_denoisers(pipeline.diffusers).items():
        denoiser.requires_grad_(True)
        parameters |= {f"{name}.{inner}": parameter for inner, parameter in denoiser.named_parameters()}
    take_steps(
        pipeline,
        parameters,
        lr=lr,
        steps=steps,
        seed=seed,
        resume=resume,
        keep_state=output if keep_state else None,
        wishes=wishes,
    )
    save(pipeline.diffusers, output, reference.name)
    return output
