"""A LoRA: diffusers' `pytorch_lora_weights.safetensors`, PEFT's `adapter_config.json`, or a lone file of factors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.alpha import METADATA, PEFT_CONFIG, PEFT_FILES, stored_metadata
from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint, Kind
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import component_folders
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.keymaps.lora import factor_of, is_kohyas, other_kind
from pytest_genmodel.checkpoints.pickle_names import texts_in
from pytest_genmodel.checkpoints.safetensors_header import read_header
from pytest_genmodel.checkpoints.weights import open_weights

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
DIFFUSERS_PICKLE = "pytorch_lora_weights.bin"
PEFT_NAME, PEFT_PICKLE = PEFT_FILES
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with LoRA weights, or a file that holds nothing but LoRA factors."""
    if path.is_dir():
        known = (DIFFUSERS_NAME, DIFFUSERS_PICKLE, PEFT_CONFIG, *PEFT_FILES)
        return any((path / name).is_file() for name in known)
    names = _names(path)
    return bool(names) and all(is_factor(name) for name in names)


def read(path: Path, spec: str) -> Checkpoint:
    """Find the weights file and whatever says what scale they were trained with.

    Kohya's and ComfyUI's names stay as they are: which layers they mean, only the model can tell.

    Raises:
        UnreadableCheckpointError: a whole component lies beside the LoRA, and nothing says which is meant.
        DamagedFileError: a file cannot be read.
    """
    folder, file = path.parent, path
    if path.is_dir():
        names = (DIFFUSERS_NAME, DIFFUSERS_PICKLE, PEFT_NAME, PEFT_PICKLE)
        folder, file = path, next((path / n for n in names if (path / n).is_file()), path / PEFT_NAME)
        _check_alone(path, file, spec)
    weights = open_weights((file,))
    config: dict[str, Any] = {}
    # Only PEFT's own file is read together with PEFT's configuration; diffusers takes no notice of it.
    if file.name in PEFT_FILES and (folder / PEFT_CONFIG).is_file():
        config = read_json(folder / PEFT_CONFIG)
    if METADATA in weights.metadata:
        config = stored_metadata(file, weights.metadata[METADATA])
    return Checkpoint(
        spec=spec,
        root=path,
        kind=Kind.ADAPTER,
        written_by=_writer(weights.tensors),
        adapter=Adapter(folder, file, weights, config),
    )


def _names(path: Path) -> Collection[str]:
    if path.suffix == ".safetensors":
        return read_header(path).tensors
    if path.suffix not in _PICKLES:
        return ()
    # The texts of a pickle that look like a tensor's name; the others are storages, devices and torch's own classes.
    return [
        text for text in texts_in(path) if "." in text and not text.startswith(("torch.", "collections."))
    ]


def _check_alone(path: Path, file: Path, spec: str) -> None:
    component = next((model.name for model in component_folders.models(path) if model.has_weights), None)
    if component is not None:
        raise UnreadableCheckpointError(
            f"{spec}: it holds a whole {component} ({component}/) and a LoRA ({file.name}), and no model_index.json "
            f"says which of them is meant: name one, {spec}/{component} or {spec}/{file.name}"
        )


def _writer(names: Collection[str]) -> str:
    return "a trainer with kohya's or ComfyUI's names" if any(map(is_kohyas, names)) else ""


def is_factor(name: str) -> bool:
    """Whether a tensor of this name is part of a LoRA, or of another small adapter that trainers call so."""
    return factor_of(name) is not None or other_kind(name) is not None
