"""What faults are injected into: copies of the reference, of a fine-tune of it, or of a LoRA for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.faults.copy import Copy, clone
from pytest_genmodel.faults.drift import fine_tune
from pytest_genmodel.faults.editing import ADAPTER

if TYPE_CHECKING:
    import torch

RANK, ALPHA = 4, 8


def fine_tuned(reference: Path, target: Path) -> Path:
    """Copy the pipeline folder `reference` to `target`, its denoiser moved a little, as training does."""
    clone(reference, target)
    fine_tune(Copy(target))
    return target


def write_adapter(reference: Path, target: Path) -> Path:
    """Write a LoRA for the denoiser of `reference` as diffusers saves one, every factor random; nothing is trained.

    Raises:
        DoesNotApplyError: the denoiser has no layer that its trainers give a LoRA.
    """
    import torch
    from safetensors.torch import save_file

    copy = Copy(reference)
    targets, generator = copy.family.lora_targets, torch.Generator().manual_seed(0)
    factors: dict[str, torch.Tensor] = {}
    for name, entry in copy.tensors(copy.denoiser).items():
        layer = name.removesuffix(".weight")
        if targets and layer != name and layer.endswith(targets) and len(entry.shape) == 2:
            rows, columns = entry.shape
            for half, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
                drawn = torch.randn(shape, generator=generator) * 0.05
                factors[f"{copy.denoiser}.{layer}.lora_{half}.weight"] = drawn
    if not factors:
        copy.does_not_apply("the denoiser has no layer that its trainers give a LoRA")
    config = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(targets)}
    header = {f"{copy.denoiser}.{key}": value for key, value in config.items()}
    target.mkdir(parents=True)
    save_file(factors, target / ADAPTER, {"format": "pt", "lora_adapter_metadata": json.dumps(header)})
    return target
