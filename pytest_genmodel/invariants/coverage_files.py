"""The part of coverage that asks what a pipeline cannot do without."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.pipelines.pipeline import Pipeline


def missing_findings(pipeline: Pipeline) -> Iterator[Finding]:
    """Components that the pipeline cannot do without, and that the model index does not give."""
    try:
        missing = pipeline.missing
    except DamagedFileError:
        return  # a configuration that says what is needed; a finding of its component
    for name in missing:
        if name not in pipeline.checkpoint.foreign:
            yield Finding(
                "GM103",
                f"the checkpoint has no {name}, which {pipeline.checkpoint.pipeline_class} needs",
                component=name,
                location=f"model_index.json:{name}",
                cause="the model index does not name it, or says null",
                action="Save the whole pipeline again, or copy the folder and its entry in model_index.json from the "
                "model it started from.",
            )


def contradiction_findings(pipeline: Pipeline) -> Iterator[Finding]:
    """What the configuration says, and no healthy model of the family says together.

    A configuration that cannot be read, or holds values of the wrong kind, is a finding of its component.
    """
    try:
        contradictions = list(pipeline.family.contradictions(pipeline.checkpoint))
    except (DamagedFileError, TypeError, ValueError):
        return
    for found in contradictions:
        yield Finding(
            "GM430", found.message, component=found.component, location=found.location, cause=found.cause
        )
