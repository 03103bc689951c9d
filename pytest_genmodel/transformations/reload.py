"""Save and load again."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.saving import save


def save_and_reload(pipeline: Pipeline, folder: Path) -> Pipeline:
    """Save the live pipeline under `folder` and give what lies there as a pipeline; nothing is loaded yet, and
    nothing is shared: what is loaded later comes from the folder.

    Raises:
        SaveError: a component does not save.
    """
    return pipeline.derive(save(pipeline.diffusers, folder, pipeline.spec), share=False)
