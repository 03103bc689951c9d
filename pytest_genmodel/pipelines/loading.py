"""One component from rest to memory, the way a user's own `from_pretrained` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.writing import written_for_library
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.library import class_named, dtype_keyword, quiet
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.pipelines.residents import align, on_meta, residents, tie_groups
from pytest_genmodel.pipelines.torch_defaults import own_defaults


class LoadError(GenmodelError):
    """The library itself refused the component; `reason` is the first line of what it said."""

    def __init__(self, component: str, reason: str) -> None:
        super().__init__(f"{component} does not load: {reason}")
        self.component = component
        self.reason = reason


@dataclass(frozen=True)
class Loaded:
    """A live component, what the library logged while it loaded, and which of its tensors have no memory."""

    module: Any
    log: tuple[str, ...]
    meta: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors; 0 for what is no model."""
        held = getattr(self.module, "parameters", None)
        return sum(tensor.nbytes for tensor in held()) if held is not None else 0


def load_component(component: Component, placement: Placement) -> Loaded:
    """Load with the class that the checkpoint names, from the local folder only, without remote code.

    A model that has tensors on meta stays where it is: moving it would raise and hide the finding.

    Raises:
        LoadError: the library refused, or has no such class.
        DamagedFileError: the component's files cannot be read.
    """
    _check_layers(component)
    component = written_for_library(component)
    cls = class_named(component.home, component.class_name)
    arguments: dict[str, Any] = {"local_files_only": True}
    if component.has_weights:
        arguments[dtype_keyword(component.library)] = placement.torch_dtype
        if component.variant:
            arguments["variant"] = component.variant
        if component.library == "diffusers" and component.file_sets[0].container == "bin":
            arguments["use_safetensors"] = False
    with own_defaults(), quiet() as log:
        try:
            module = cls.from_pretrained(str(component.folder), **arguments)
        except Exception as error:  # whatever a library raises for a bad file is the finding's text
            reason = first_line(error).replace(str(component.folder), component.name)
            raise LoadError(component.name, reason) from error
    meta: tuple[str, ...] = ()
    if component.has_weights:
        meta = on_meta(module)
        module.eval()
        align(module)
        if not meta:
            module.to(placement.device)
    return Loaded(module, tuple(log), meta)


MOST_LAYERS = 10_000
"""Layers that a configuration may ask for; the largest models have a few hundred, and each is built in Python."""


def _check_layers(component: Component) -> None:
    for key, value in component.config.items():
        if "layers" in key and isinstance(value, int) and value > MOST_LAYERS:
            raise LoadError(component.name, f"its configuration asks for {key} = {value}, which no model has")


def skeleton(component: Component) -> Any:
    """Build the component's model from its configuration without memory (meta device).

    Raises:
        LoadError: the configuration does not make a model.
    """
    import torch

    _check_layers(component)
    cls = class_named(component.home, component.class_name)
    with quiet(), torch.device("meta"):
        try:
            if component.library == "diffusers":
                return cls.from_config(dict(component.config))
            model = cls(cls.config_class.from_dict(dict(component.config)))
            model.tie_weights()
            return model
        except Exception as error:
            raise LoadError(
                component.name, f"its configuration makes no model ({first_line(error)})"
            ) from error


def stored_ties(component: Component) -> list[tuple[str, ...]]:
    """Give the groups of names that the component's model has for one tensor; nothing is loaded.

    Empty where the installed libraries make no model of the component: then each name stands for itself.
    """
    try:
        return tie_groups(residents(skeleton(component)))
    except GenmodelError:
        return []
