"""Writing into a copy of a checkpoint: its tensors and JSON values, in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

DENOISER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
ADAPTER = "pytorch_lora_weights.safetensors"
TO_Q, TO_K = (f"transformer_blocks.0.attn1.{name}.weight" for name in ("to_q", "to_k"))
SHARED, ALIAS = "shared.weight", "encoder.embed_tokens.weight"


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

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata)


def edit_json(file: Path, **values: Any) -> None:
    """Set keys of a JSON object."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def everywhere(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    """A change of every floating-point tensor."""
    return lambda tensors: {n: change(t) if t.is_floating_point() else t for n, t in tensors.items()}


def noise(tensor: torch.Tensor, size: float, seed: int = 0) -> torch.Tensor:
    """Gaussian noise of `size` times the tensor's own spread, drawn from a generator of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    spread = float(tensor.float().std()) if tensor.numel() > 1 else 1.0
    return (torch.randn(tensor.shape, generator=generator) * size * spread).to(tensor.dtype)
