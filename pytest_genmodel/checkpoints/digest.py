"""What identifies a checkpoint and its components at rest: content, not paths, sharding or metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.progress import Progress, silent

_BLOCK = 1 << 20


def checkpoint_digest(
    checkpoint: Checkpoint, progress: Progress = silent, *, content: Callable[[str], str] | None = None
) -> str:
    """Give a sha256 over class, arguments, adapter and the content of every component; reads every weight.

    Args:
        checkpoint: a whole one; of a partial one it is the digest of the part.
        progress: told how many bytes are read.
        content: gives the digest of a component by its name, where that is known already.
    """
    outer = hashlib.sha256(f"{checkpoint.pipeline_class}".encode())
    outer.update(repr(sorted(checkpoint.pipeline_arguments.items())).encode())
    for name in sorted(checkpoint.components):
        own = content(name) if content else component_digest(checkpoint.components[name], progress)
        outer.update(f"\n{name}={own}".encode())
    if checkpoint.adapter:
        outer.update(f"\nadapter={adapter_digest(checkpoint.adapter, progress)}".encode())
    return outer.hexdigest()


def adapter_digest(adapter: Adapter, progress: Progress = silent) -> str:
    """Give what identifies a LoRA: the digest of its weights, and its configuration."""
    return f"{adapter.weights.content_digest(progress)}{sorted(adapter.config.items())!r}"


def component_digest(component: Component, progress: Progress = silent) -> str:
    """Give a sha256 over class, configuration (private and version fields left out) and content.

    Components without weights (tokenizers, schedulers) are identified by the bytes of their files. `progress` is told
    how many bytes are read.
    """
    outer = hashlib.sha256(f"{component.library}.{component.class_name}\n".encode())
    outer.update(json.dumps(plain_config(component.config), sort_keys=True).encode())
    if component.has_weights:
        outer.update(component.weights.content_digest(progress).encode())
    else:
        for path in _content_files(component.folder, component.config_path):
            outer.update(f"\n{path.name}:{file_digest(path)}".encode())
    return outer.hexdigest()


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what says nothing about the model: private fields, versions, paths."""
    inert = {"transformers_version", "name_or_path", "torch_dtype", "dtype"}
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in inert}


def file_digest(path: Path) -> str:
    """Give the sha256 of a file, read in blocks."""
    outer = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            outer.update(block)
    return outer.hexdigest()


def _content_files(folder: Path, config_path: Path | None) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path != config_path and path.suffix in {".json", ".txt", ".model"}:
            yield path
