"""Attaching a LoRA to a live pipeline, by diffusers' own loader."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.library import require_peft

ADAPTER_NAME = "candidate"
_PEFT_PREFIX = "base_model.model."


class AttachError(GenmodelError):
    """diffusers refused the adapter."""


def attach(pipeline: Any, adapter: Adapter) -> None:
    """Load `adapter` into the pipeline's denoiser under the name `ADAPTER_NAME`, in place.

    The file's own alpha is used where it carries one, in diffusers' header metadata or PEFT's configuration;
    otherwise diffusers takes alpha = rank.

    Raises:
        MissingExtraError: peft is not installed.
        AttachError: diffusers refused it; says why.
    """
    require_peft("attaching a LoRA")
    if ADAPTER_NAME in getattr(pipeline.transformer, "peft_config", {}):
        return  # the denoiser was kept from an earlier pipeline of the same content, adapter and all
    try:
        if any(name.startswith(_PEFT_PREFIX) for name in adapter.weights.tensors):
            _attach_peft(pipeline, adapter)
        else:
            pipeline.load_lora_weights(
                str(adapter.folder), weight_name=adapter.file.name, adapter_name=ADAPTER_NAME
            )
    except Exception as error:  # whatever peft or diffusers raises for a bad file is the finding's text
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AttachError(f"the adapter cannot be attached: {reason}") from error


def _attach_peft(pipeline: Any, adapter: Adapter) -> None:
    """PEFT keeps its scale in a file that diffusers does not read: hand it over with the tensors."""
    from peft import LoraConfig

    known = {field.name for field in fields(LoraConfig)} - {"peft_type", "task_type", "auto_mapping"}
    metadata = {f"transformer.{key}": value for key, value in adapter.config.items() if key in known}
    pipeline.load_lora_into_transformer(
        {
            f"transformer.{name.removeprefix(_PEFT_PREFIX)}": adapter.weights.read(name)
            for name in adapter.weights.tensors
        },
        transformer=pipeline.transformer,
        adapter_name=ADAPTER_NAME,
        metadata=metadata or None,  # an empty one would mean PEFT's defaults: rank 8, alpha 8
    )
