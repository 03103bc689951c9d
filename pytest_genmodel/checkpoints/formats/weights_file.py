"""One file of weights without a configuration: which component it is, the reference must tell."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def recognises(path: Path) -> bool:
    """Whether `path` is a file with the ending of a weights file."""
    return path.is_file() and path.suffix in SUFFIXES


def read(path: Path, spec: str) -> Checkpoint:
    """Give a checkpoint with one unnamed component."""
    component = Component("", path.parent, "", "", weights_file=path)
    return Checkpoint(spec=spec, root=path, kind=Kind.WEIGHTS, components={"": component})
