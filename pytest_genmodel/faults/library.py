"""Breaking a library for a while: where its functions are, and what components are called with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.pipelines.library import class_named
from pytest_genmodel.pipelines.replaced import Original, replaced


def class_of(copy: Copy, name: str) -> Any:
    """The library's class of a component."""
    component = copy.component(name, with_weights=False)
    return class_named(component.home, component.class_name)


def pipeline_class(copy: Copy) -> Any:
    """The library's class of the pipeline."""
    return class_named("diffusers", str(copy.checkpoint.pipeline_class))


def pipeline_module(copy: Copy) -> Any:
    """The module that defines the pipeline's class."""
    return sys.modules[pipeline_class(copy).__module__]


def only_for(copy: Copy, family: str) -> None:
    """Say that the fault does not apply to a pipeline of another family."""
    if copy.family.name != family:
        copy.does_not_apply(f"it is a fault of {family} pipelines")


@contextmanager
def component_sees(
    copy: Copy, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[None]:
    """Let a component be called with other arguments than the pipeline gave: whoever watches the call sees them."""
    import inspect

    cls = class_of(copy, name)
    signature = inspect.signature(cls.forward)

    def make(original: Original) -> Original:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            bound = signature.bind(self, *arguments, **options)
            given = {key: value for key, value in bound.arguments.items() if key != "self"}
            for key, parameter in signature.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD:
                    given |= given.pop(key, {})
            return original(self, **change(given))

        return call

    with replaced(cls, "__call__", make):
        yield


@contextmanager
def denoiser_sees(copy: Copy, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """`component_sees`, for the denoiser."""
    with component_sees(copy, copy.denoiser, change):
        yield
