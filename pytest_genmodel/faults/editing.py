"""Rewriting a small safetensors file of a copy in memory: its tensors and its metadata."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

DENOISER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
ADAPTER = "pytorch_lora_weights.safetensors"
TO_Q = "transformer_blocks.0.attn1.to_q.weight"


def edit(file: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    """Rewrite a safetensors file with its metadata; `change` edits the tensors in place, or gives new ones."""
    tensors, metadata = _stored(file)
    _write(file, change(tensors) or tensors, metadata)


def edit_one(file: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Rewrite one tensor of a safetensors file."""
    edit(file, lambda tensors: tensors | {name: change(tensors[name])})


def edit_metadata(file: Path, **values: str | None) -> None:
    """Set entries of a safetensors file's header; None takes one out."""
    tensors, metadata = _stored(file)
    changed = {**(metadata or {}), **values}
    _write(file, tensors, {key: value for key, value in changed.items() if value is not None})


def _stored(file: Path) -> tuple[Tensors, dict[str, str] | None]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    return {name: tensor.clone() for name, tensor in load_file(file).items()}, metadata


def _write(file: Path, tensors: Tensors, metadata: dict[str, str] | None) -> None:
    from safetensors.torch import save_file

    beside = file.with_name(f".{file.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, metadata=metadata)
    os.replace(beside, file)
