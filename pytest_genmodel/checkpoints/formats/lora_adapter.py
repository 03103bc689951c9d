"""A LoRA: diffusers' `pytorch_lora_weights.safetensors`, PEFT's `adapter_config.json`, or a lone file of factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint, Kind
from pytest_genmodel.checkpoints.component import read_json
from pytest_genmodel.checkpoints.safetensors_header import read_header
from pytest_genmodel.checkpoints.weights import open_weights

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_NAME = "adapter_model.safetensors"
METADATA_KEY = "lora_adapter_metadata"
"""The header key under which diffusers keeps PEFT's configuration, alpha included."""


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with LoRA weights, or a safetensors file that holds nothing but LoRA factors."""
    if path.is_dir():
        return (path / DIFFUSERS_NAME).is_file() or (path / PEFT_CONFIG).is_file()
    if path.suffix != ".safetensors":
        return False
    names = read_header(path).tensors
    return bool(names) and all(is_factor(name) for name in names)


def read(path: Path, spec: str) -> Checkpoint:
    """Find the weights file and whatever says what scale they were trained with."""
    folder, file = path, path
    config: dict[str, Any] = {}
    if path.is_dir():
        peft = (path / PEFT_CONFIG).is_file() and not (path / DIFFUSERS_NAME).is_file()
        file = path / (PEFT_NAME if peft else DIFFUSERS_NAME)
        if (path / PEFT_CONFIG).is_file():
            config = read_json(path / PEFT_CONFIG)
    else:
        folder = path.parent
    weights = open_weights((file,))
    if METADATA_KEY in weights.metadata:
        stored = json.loads(weights.metadata[METADATA_KEY])
        config = {key.split(".", 1)[-1]: value for key, value in stored.items()}
    return Checkpoint(spec=spec, root=path, kind=Kind.ADAPTER, adapter=Adapter(folder, file, weights, config))


def is_factor(name: str) -> bool:
    """Whether a tensor of this name is part of a LoRA."""
    return any(part in name for part in (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".alpha"))
