"""One file with several components, or with one under the names of its training: original, ComfyUI's, SAT's VAE."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.containers import census, components_of
from pytest_genmodel.checkpoints.pickle_names import texts_in
from pytest_genmodel.checkpoints.safetensors_header import read_header
from pytest_genmodel.checkpoints.weights import open_weights

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def recognises(path: Path) -> bool:
    """Whether `path` is a file whose tensor names have a component's prefix, or are a trainer's own."""
    return path.is_file() and path.suffix in SUFFIXES and bool(census(_names(path)))


def read(path: Path, spec: str) -> Checkpoint:
    """Part the names into components, each under the model's own names; a name of none is `unexplained`."""
    names = _names(path)
    components = components_of(census(names), path.parent, functools.partial(open_weights, (path,)))
    return Checkpoint(
        spec=spec, root=path, kind=Kind.WEIGHTS, written_by=_writer(names), components=components
    )


def _names(path: Path) -> Collection[str]:
    return read_header(path).tensors if path.suffix == ".safetensors" else texts_in(path)


def _writer(names: Collection[str]) -> str:
    for prefix, writer in (
        ("text_encoders.", "ComfyUI"),
        ("first_stage_model.", "a trainer of original code"),
    ):
        if any(name.startswith(prefix) for name in names):
            return writer
    return ""
