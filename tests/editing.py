"""Damaging a checkpoint folder in a test: tensors and JSON values, in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TO_Q = "transformer_blocks.0.attn1.to_q.weight"


def edit_tensors(file: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    """Rewrite a safetensors file; `change` edits the tensors in place or gives new ones."""
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors = change(tensors) or tensors
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"}
    )


def edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON object; the value `...` removes the key."""
    values = json.loads(file.read_text())
    for key, value in changes.items():
        if value is ...:
            values.pop(key, None)
        else:
            values[key] = value
    file.write_text(json.dumps(values))


def drop_tensors(file: Path, *names: str) -> None:
    """Take tensors out of a safetensors file."""
    edit_tensors(file, lambda tensors: {name: t for name, t in tensors.items() if name not in names})
