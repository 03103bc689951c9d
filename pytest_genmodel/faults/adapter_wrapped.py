"""The founding incident: a checkpoint saved while its LoRA was attached (zai-org/CogVideo issue 374)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.library import class_named, quiet, require_peft


def adapter_wrapped(healthy: Path, target: Path) -> Path:
    """Copy the pipeline folder `healthy` to `target`, its denoiser saved with a fresh LoRA still attached.

    At learning rate zero the LoRA changes nothing (lora_B is zero), and no value is altered by the save; only the
    names are: `to_q.weight` becomes `to_q.base_layer.weight`.

    Raises:
        MissingExtraError: peft is not installed.
    """
    require_peft("the founding incident")
    import torch
    from peft import LoraConfig

    checkpoint = open_checkpoint(healthy, healthy.name)
    family = family_of(checkpoint)
    component = checkpoint.components[family.denoiser]
    shutil.copytree(healthy, target)
    with quiet():
        denoiser = class_named(component.home, component.class_name).from_pretrained(str(component.folder))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            denoiser.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=list(family.lora_targets)))
        shutil.rmtree(target / component.name)
        denoiser.save_pretrained(str(target / component.name))
    return target


def load_as_the_incident_did(damaged: Path) -> Any:
    """Load the pipeline as the thread's inference code did: a fresh denoiser, `strict=False`, no questions.

    What the file does not name keeps its random initial values, and nothing is raised.
    """
    import torch

    checkpoint = open_checkpoint(damaged, damaged.name)
    family = family_of(checkpoint)
    parts = {}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, component in checkpoint.components.items():
            cls = class_named(component.home, component.class_name)
            if name != family.denoiser:
                parts[name] = cls.from_pretrained(str(component.folder))
                continue
            parts[name] = cls.from_config(dict(component.config))
            stored = {tensor: component.weights.read(tensor) for tensor in component.weights.tensors}
            parts[name].load_state_dict(stored, strict=False)
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.float().eval()
        return class_named("diffusers", str(checkpoint.pipeline_class))(**parts)
