"""LoRA: an adapter on the denoiser's attention, saved by itself with its alpha."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.pipelines.library import quiet, require_peft
from pytest_genmodel.pipelines.probing import ProbeWishes
from pytest_genmodel.training.loop import load_for_training, take_steps

RANK = 4
ALPHA = 8
"""Not the rank: a loader that forgets alpha takes alpha = rank, and would go unseen."""


def train_lora(
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
    """Train a new LoRA and save it under `output` as diffusers does; see `trainers.Trainer`.

    `wishes` says what clip is trained on, where the model does not say its size itself.

    Raises:
        MissingExtraError: peft is not installed.
        BadInputError: no state of this trainer lies in `resume`.
    """
    require_peft("the built-in LoRA trainer")
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = load_for_training(reference)
    denoiser = getattr(pipeline.diffusers, pipeline.family.denoiser)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(pipeline.family.lora_targets))
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        denoiser.add_adapter(config)
    take_steps(
        pipeline,
        {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad},
        lr=lr,
        steps=steps,
        seed=seed,
        resume=resume,
        keep_state=output if keep_state else None,
        wishes=wishes,
    )
    with quiet():
        pipeline.family.save_lora(
            pipeline.diffusers,
            output,
            get_peft_model_state_dict(denoiser),
            denoiser.peft_config["default"].to_dict(),
        )
    return output
