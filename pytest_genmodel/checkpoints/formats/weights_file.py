"""One file of weights without a configuration: which component it is, the reference must tell."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.safetensors_header import begins_as_header

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def recognises(path: Path) -> bool:
    """Whether `path` is a file with the ending of a weights file, or begins as one under any name."""
    if not path.is_file():
        return False
    if path.suffix in SUFFIXES:
        return True
    with path.open("rb") as stream:
        start = stream.read(256)
    return begins_as_header(start) or (start.startswith(b"PK\x03\x04") and b"/data.pkl" in start)


def read(path: Path, spec: str) -> Checkpoint:
    """Give a checkpoint with one unnamed component."""
    component = Component("", path.parent, "", "", weights_file=path)
    return Checkpoint(spec=spec, root=path, kind=Kind.WEIGHTS, components={"": component})
