"""Putting a live pipeline together from its components, as its class wants them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.pipelines.effective import stored_arguments
from pytest_genmodel.pipelines.library import class_named, quiet


def required_components(pipeline_class: Any) -> list[str]:
    """Components without which the class cannot be made."""
    return [name for name in _without_default(pipeline_class) if name not in _optional(pipeline_class)]


def assembled(checkpoint: Checkpoint, parts: Mapping[str, Any]) -> Any:
    """Make the checkpoint's pipeline of live `parts`, by name; what is optional and not there is None."""
    cls = class_named("diffusers", str(checkpoint.pipeline_class))
    absent = {name: None for name in _without_default(cls) if name in _optional(cls)}
    with quiet():
        return cls(**{**absent, **parts}, **stored_arguments(checkpoint, cls))


def _without_default(pipeline_class: Any) -> tuple[str, ...]:
    """What the class must be given: its arguments that have no default."""
    parameters = list(inspect.signature(pipeline_class.__init__).parameters.values())[1:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind not in variable
    )


def _optional(pipeline_class: Any) -> tuple[str, ...]:
    """Components that the class takes None for."""
    return tuple(getattr(pipeline_class, "_optional_components", ()))
