"""What identifies a component at rest: its content, not its paths, its sharding or its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.progress import Progress, silent

_BLOCK = 1 << 20


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
