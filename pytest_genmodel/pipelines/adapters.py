"""Attaching a LoRA to a live pipeline, by diffusers' own loader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.formats.lora_adapter import kohya_name
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.families.base import Family
from pytest_genmodel.pipelines.library import require_peft

ADAPTER_NAME = "candidate"
_PEFT_PREFIX = "base_model.model."


class AttachError(GenmodelError):
    """The adapter cannot be attached; says why."""


def attach(pipeline: Any, adapter: Adapter, family: Family) -> None:
    """Load `adapter` into the pipeline's denoiser under the name `ADAPTER_NAME`, in place.

    The file's own alpha is used where it carries one, in diffusers' header metadata or PEFT's configuration;
    otherwise diffusers takes alpha = rank.

    Raises:
        MissingExtraError: peft is not installed.
        AttachError: the names are none that diffusers reads, or diffusers refused it; says why.
    """
    require_peft("attaching a LoRA")
    if ADAPTER_NAME in getattr(getattr(pipeline, family.denoiser), "peft_config", {}):
        return  # the denoiser was kept from an earlier pipeline of the same content, adapter and all
    if reason := unattachable(adapter.weights.tensors, family):
        raise AttachError(f"the adapter cannot be attached: {reason}")
    try:
        if any(name.startswith(_PEFT_PREFIX) for name in adapter.weights.tensors):
            _attach_peft(pipeline, adapter, family)
        else:
            pipeline.load_lora_weights(
                str(adapter.folder), weight_name=adapter.file.name, adapter_name=ADAPTER_NAME
            )
    except Exception as error:  # whatever peft or diffusers raises for a bad file is the finding's text
        raise AttachError(f"the adapter cannot be attached: {first_line(error)}") from error


def unattachable(names: Iterable[str], family: Family) -> str | None:
    """Say why a file of these names is not even tried: diffusers would pass over it, or stumble; None if it is."""
    names = list(names)
    if not family.reads_kohya and (name := kohya_name(names)):
        return (
            f"it has kohya's names ({name}), which diffusers does not read for {family.name}: convert them to "
            f"diffusers' ({family.denoiser}.<module>.lora_A.weight and lora_B.weight, alpha in the metadata)"
        )
    if not any(".lora_B" in name or ".lora_up." in name or ".lora_embedding_B" in name for name in names):
        return f"none of its {len(names)} tensors is a lora_B, and a LoRA acts by lora_B times lora_A"
    return None


def _attach_peft(pipeline: Any, adapter: Adapter, family: Family) -> None:
    """PEFT keeps its scale in a file that diffusers does not read: hand it over with the tensors."""
    from peft import LoraConfig

    known = {field.name for field in fields(LoraConfig)} - {"peft_type", "task_type", "auto_mapping"}
    config = {key: value for key, value in adapter.config.items() if key in known}
    tensors = {
        name.removeprefix(_PEFT_PREFIX): adapter.weights.read(name) for name in adapter.weights.tensors
    }
    # An empty configuration would mean PEFT's defaults: rank 8, alpha 8.
    family.attach_lora(pipeline, tensors, ADAPTER_NAME, config or None)
