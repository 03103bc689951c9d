"""Full fine-tuning: every parameter of the denoiser, saved as a whole pipeline."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.pipelines.saving import save
from pytest_genmodel.training.loop import load_for_training, take_steps


def train_full(reference: Path, *, lr: float, steps: int, seed: int, output: Path) -> Path:
    """Train every parameter of the denoiser and save the pipeline under `output`; see `trainers.Trainer`."""
    pipeline = load_for_training(reference)
    denoiser = getattr(pipeline.diffusers, pipeline.family.denoiser)
    denoiser.requires_grad_(True)
    take_steps(pipeline, list(denoiser.parameters()), lr=lr, steps=steps, seed=seed)
    save(pipeline.diffusers, output, reference.name)
    return output
