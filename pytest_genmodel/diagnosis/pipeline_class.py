"""The class of the pipeline that the model index names: another one calls the same parts in another way."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint, Kind
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.call import call_parameters
from pytest_genmodel.pipelines.library import class_named


def pipeline_class_findings(ours: Checkpoint, theirs: Checkpoint) -> Iterator[Finding]:
    """Say that the pipeline's class is not the reference's: an error where an input that the reference takes is lost.

    A class that takes the same conditions (image, prompt) is a warning: it may sample otherwise.
    """
    mine, other = ours.pipeline_class, theirs.pipeline_class
    if mine == other or not mine or not other or ours.kind is not Kind.PIPELINE:
        return
    lost = [name for name in ("image", "prompt") if name in _taken(other) and name not in _taken(mine)]
    said = f", which takes no {' and no '.join(lost)}" if lost else ""
    yield Finding(
        "GM435",
        f"the pipeline's class is {mine}{said}; the reference's is {other}",
        location=f"{INDEX}:_class_name",
        severity=None if lost else Severity.WARNING,
        cause="the trainer saved with the pipeline that it validates with" if lost else None,
        evidence={"candidate": mine, "reference": other, "lost": lost},
    )


def _taken(class_name: str) -> frozenset[str]:
    try:
        return frozenset(call_parameters(class_named("diffusers", class_name)))
    except BadInputError:
        return frozenset()  # unknown here: coverage says so
