"""A live pipeline to a folder, by the classes' own `save_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.library import quiet


class SaveError(GenmodelError):
    """diffusers could not save the pipeline; says why."""


def save(pipeline: Any, folder: Path, spec: str) -> Checkpoint:
    """Save a live diffusers pipeline with `save_pretrained` and open what was written.

    Raises:
        SaveError: a component does not save (tensors on meta, a full disk).
    """
    with quiet():
        try:
            pipeline.save_pretrained(str(folder))
        except Exception as error:  # whatever a component raises while saving
            raise SaveError(f"the pipeline does not save: {first_line(error)}") from error
    return open_checkpoint(folder, spec)
