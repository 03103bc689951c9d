"""Attaching a LoRA to a live pipeline: by diffusers' own loader, or by PEFT where that cannot read the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from pytest_genmodel.checkpoints.alpha import scales
from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.keymaps.lora import PEFT_PREFIX, is_kohyas, other_kind, resolve
from pytest_genmodel.checkpoints.mapped import MappedWeights, Rows
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.families.base import Family
from pytest_genmodel.pipelines.library import require_peft

ADAPTER_NAME = "candidate"


class AttachError(GenmodelError):
    """The adapter cannot be attached; says why."""


def resolved(adapter: Adapter, whole: Checkpoint) -> Adapter:
    """Give `adapter` diffusers' names, where its own are kohya's or ComfyUI's and the denoiser's layers tell them.

    Names that match no layer, or more than one, are `unexplained`. An adapter of which no name matches, or that is
    of another kind than LoRA, comes back as it is.

    Raises:
        UnknownFamilyError: the pipeline's class is of no known family.
        DamagedFileError: the denoiser's files cannot be read.
    """
    names = adapter.weights.tensors
    if not any(map(is_kohyas, names)) or any(map(other_kind, names)):
        return adapter
    denoiser = family_of(whole).denoiser
    layers = {unwrapped(name).rpartition(".")[0] for name in whole.components[denoiser].weights.tensors}
    found = resolve(names, layers, f"{denoiser}.")
    if not found.names:
        return adapter
    targets = {name: Rows(stored) for name, stored in found.names.items()}
    return replace(adapter, weights=MappedWeights(adapter.weights, targets, found.unmatched))


def attach(pipeline: Any, adapter: Adapter, family: Family) -> None:
    """Load `adapter` into the pipeline's denoiser under the name `ADAPTER_NAME`, in place.

    It acts at the scale that its own loader takes: from alpha tensors, diffusers' header metadata or PEFT's
    configuration, and at 1 (alpha = rank) where none of these says it.

    Raises:
        MissingExtraError: peft is not installed.
        AttachError: the names are none that can be read, or diffusers refused it; says why.
        DamagedFileError: what says its alpha cannot be read.
    """
    require_peft("attaching a LoRA")
    if ADAPTER_NAME in getattr(getattr(pipeline, family.denoiser), "peft_config", {}):
        return  # the denoiser was kept from an earlier pipeline of the same content, adapter and all
    if reason := unattachable(adapter.weights.tensors, family):
        raise AttachError(f"the adapter cannot be attached: {reason}")
    config = _config(adapter)
    denoiser = getattr(pipeline, family.denoiser)
    infers = not denoiser.training
    try:
        if any(name.startswith(PEFT_PREFIX) for name in adapter.weights.tensors):
            _hand_over(pipeline, adapter, family, PEFT_PREFIX, config)
        elif isinstance(adapter.weights, MappedWeights):
            _hand_over(pipeline, adapter, family, f"{family.denoiser}.", config)
        else:
            pipeline.load_lora_weights(
                str(adapter.folder), weight_name=adapter.file.name, adapter_name=ADAPTER_NAME
            )
    except Exception as error:  # whatever peft or diffusers raises for a bad file is the finding's text
        raise AttachError(f"the adapter cannot be attached: {first_line(error)}") from error
    if infers:
        denoiser.eval()  # diffusers 0.42 leaves the dropout on that the file's header speaks of


def unattachable(names: Iterable[str], family: Family) -> str | None:
    """Say why a file of these names is not even tried: diffusers would pass over it, or stumble; None if it is."""
    names = list(names)
    for name in names:
        if kind := other_kind(name):
            return f"it is {kind} ({name}), and LoRA alone (lora_A and lora_B, lora_down and lora_up) is read here"
    if strange := [name for name in names if is_kohyas(name) and not name.startswith(f"{family.denoiser}.")]:
        return f"it has kohya's names ({strange[0]}), and none of them is that of a layer of this {family.denoiser}"
    if not any(".lora_B" in name or ".lora_embedding_B" in name for name in names):
        return f"none of its {len(names)} tensors is a lora_B, and a LoRA acts by lora_B times lora_A"
    return None


def _hand_over(
    pipeline: Any, adapter: Adapter, family: Family, prefix: str, config: dict[str, Any] | None
) -> None:
    """Give the live denoiser the tensors and their scale: they lie where diffusers' loader would not look."""
    tensors = {
        name.removeprefix(prefix): adapter.weights.read(name)
        for name in adapter.weights.tensors
        if not name.endswith(".alpha")
    }
    family.attach_lora(pipeline, tensors, ADAPTER_NAME, config)


def _config(adapter: Adapter) -> dict[str, Any] | None:
    """The arguments of PEFT's LoraConfig: PEFT's own where the file came with them, else rank and alpha by layer."""
    if not isinstance(adapter.weights, MappedWeights):
        from peft import LoraConfig

        known = {field.name for field in fields(LoraConfig)} - {"peft_type", "task_type", "auto_mapping"}
        # An empty configuration would mean PEFT's defaults: rank 8, alpha 8.
        return {key: value for key, value in adapter.config.items() if key in known} or None
    found = scales(adapter)
    ranks = found.rank_by_module
    if not ranks:
        return None  # no factor has the shape of one: peft says so
    alphas = {module: found.applied(module) * rank for module, rank in ranks.items()}
    rank, alpha = (Counter(of.values()).most_common(1)[0][0] for of in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(ranks),
        "rank_pattern": {re.escape(module): own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {re.escape(module): own for module, own in alphas.items() if own != alpha},
    }
