"""Damaging a checkpoint folder in a test: tensors and JSON values, in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pytest_genmodel.faults.editing import DENOISER as TRANSFORMER
from pytest_genmodel.faults.editing import TO_Q, VAE
from pytest_genmodel.faults.editing import edit as edit_tensors

Tensors = dict[str, torch.Tensor]
__all__ = ["TO_Q", "TRANSFORMER", "VAE", "Tensors", "drop_tensors", "edit_json", "edit_tensors"]


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
