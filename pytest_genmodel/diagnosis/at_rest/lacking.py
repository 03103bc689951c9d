"""Components of a whole pipeline whose folders lack what loading them needs: weights, or a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.library import class_named, quiet

_NO_MODEL = re.compile(r"(Scheduler|Tokenizer(Fast)?|Processor(Fast|Pil)?|FeatureExtractor)$")
"""Ends of the names of classes that have no weights by nature: the library need not be imported to know."""


def lacking(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Folders without weights or configuration, by the model index; what is given in part is never whole."""
    if checkpoint.kind is not Kind.PIPELINE:
        return
    for component in checkpoint.components.values():
        try:
            yield from lacking_in(component)
        except (DamagedFileError, BadInputError):
            continue  # a broken shard index is said where it is read; of an unknown class nothing is known


def lacking_in(component: Component) -> Iterator[Finding]:
    """A model must have weights and its configuration; a scheduler or a processor a configuration at least.

    Raises:
        BadInputError: the installed library has no such class, and what it needs is not known.
        DamagedFileError: a shard index cannot be read.
    """
    what = None
    if component.has_weights:
        if component.config_path is None and not component.config:
            what = "configuration"
    elif needs_weights(component):
        what = "weights"
    elif not any(component.folder.glob("*" if "Tokenizer" in component.class_name else "*.json")):
        what = "configuration"  # a tokenizer may be a vocabulary alone
    if what is not None:
        yield Finding(
            "GM103",
            f"the folder of {component.class_name} holds no {what}",
            component=component.name,
            location=f"{component.name}/",
        )


def needs_weights(component: Component) -> bool:
    """Whether the component's class is a model, whatever lies in its folder.

    Raises:
        BadInputError: the installed library has no such class.
    """
    if _NO_MODEL.search(component.class_name):
        return False
    import torch

    with quiet():
        cls = class_named(component.home, component.class_name)
    return isinstance(cls, type) and (
        issubclass(cls, torch.nn.Module) or component.class_name.startswith("AutoModel")
    )
