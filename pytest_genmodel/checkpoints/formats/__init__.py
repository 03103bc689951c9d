"""The formats, one module each: `recognises(path)` says "this is mine" by content, `read(path, spec)` reads it.

A new format is one module here and one entry in `FORMATS`; the first that recognises a path reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.formats import (
    accelerate_state,
    component_folders,
    deepspeed_zero,
    diffusers_pipeline,
    gguf,
    lora_adapter,
    sat,
    single_file,
    torch_dcp,
    weights_file,
)


class Format(Protocol):
    """What a format module offers."""

    def recognises(self, path: Path) -> bool:
        """Say whether `path` (existing) is of this format; reads little."""
        ...

    def read(self, path: Path, spec: str) -> Checkpoint:
        """Open `path`; raises DamagedFileError or UnreadableCheckpointError."""
        ...


FORMATS: tuple[Format, ...] = (
    diffusers_pipeline,
    gguf,
    sat,
    lora_adapter,
    component_folders,
    deepspeed_zero,
    torch_dcp,
    accelerate_state,
    single_file,
    weights_file,
)
