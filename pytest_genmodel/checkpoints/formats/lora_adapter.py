"""A LoRA: diffusers' `pytorch_lora_weights.safetensors`, PEFT's `adapter_config.json`, or a lone file of factors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint, Kind
from pytest_genmodel.checkpoints.component import read_json
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.formats import component_folders
from pytest_genmodel.checkpoints.safetensors_header import read_header
from pytest_genmodel.checkpoints.weights import open_weights

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_NAME = "adapter_model.safetensors"
PEFT_PICKLE = "adapter_model.bin"
METADATA_KEY = "lora_adapter_metadata"
"""The header key under which diffusers keeps PEFT's configuration, alpha included."""

_FACTORS = (
    *(".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".alpha"),
    *(".lora_magnitude_vector", ".lora_embedding_", ".dora_scale"),
)
_KOHYA = re.compile(r"\.lora_(down|up)\.")


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with LoRA weights, or a safetensors file that holds nothing but LoRA factors."""
    if path.is_dir():
        return (path / DIFFUSERS_NAME).is_file() or (path / PEFT_CONFIG).is_file()
    if path.suffix != ".safetensors":
        return False
    names = read_header(path).tensors
    return bool(names) and all(is_factor(name) for name in names)


def read(path: Path, spec: str) -> Checkpoint:
    """Find the weights file and whatever says what scale they were trained with.

    Raises:
        UnreadableCheckpointError: a whole component lies beside the LoRA, and nothing says which is meant.
        DamagedFileError: a file cannot be read.
    """
    folder, file = path.parent, path
    if path.is_dir():
        names = (DIFFUSERS_NAME, PEFT_NAME, PEFT_PICKLE)
        folder, file = path, next((path / n for n in names if (path / n).is_file()), path / PEFT_NAME)
        _check_alone(path, file, spec)
    weights = open_weights((file,))
    config: dict[str, Any] = {}
    # Only PEFT's own file is read together with PEFT's configuration; diffusers takes no notice of it.
    if file.name in (PEFT_NAME, PEFT_PICKLE) and (folder / PEFT_CONFIG).is_file():
        config = read_json(folder / PEFT_CONFIG)
    if METADATA_KEY in weights.metadata:
        config = _stored_config(file, weights.metadata[METADATA_KEY])
    return Checkpoint(spec=spec, root=path, kind=Kind.ADAPTER, adapter=Adapter(folder, file, weights, config))


def _check_alone(path: Path, file: Path, spec: str) -> None:
    from pytest_genmodel.checkpoints.opening import UnreadableCheckpointError  # which imports the formats

    component = next((model.name for model in component_folders.models(path) if model.has_weights), None)
    if component is not None:
        raise UnreadableCheckpointError(
            f"{spec}: it holds a whole {component} ({component}/) and a LoRA ({file.name}), and no model_index.json "
            f"says which of them is meant: name one, {spec}/{component} or {spec}/{file.name}"
        )


def _stored_config(file: Path, text: str) -> dict[str, Any]:
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise DamagedFileError(
            file,
            Damage.CONFIG,
            f"its metadata {METADATA_KEY} is no JSON object",
            action="Save the adapter again; diffusers cannot read this one's alpha.",
        )
    return {key.split(".", 1)[-1]: value for key, value in stored.items()}


def kohya_name(names: Iterable[str]) -> str | None:
    """Give the first name that is spelled as kohya's trainers do, which most loaders of diffusers cannot read."""
    return next((name for name in names if name.endswith(".alpha") or _KOHYA.search(name)), None)


def is_factor(name: str) -> bool:
    """Whether a tensor of this name is part of a LoRA."""
    return any(part in name for part in _FACTORS)
