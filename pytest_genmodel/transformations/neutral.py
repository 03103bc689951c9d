"""The registry of neutral transformations: what is done to a live pipeline and must not matter."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_genmodel.errors import BadInputError, GenmodelError
from pytest_genmodel.transformations.bench import Bench, Observation, sampled

Apply = Callable[[Bench], Iterator[Any]]
Observe = Callable[[Bench, str, Any], Observation]

_MODULES = ("neutral_vae", "neutral_kernels", "neutral_dtypes", "neutral_pipelines", "neutral_offload")


class NotHereError(GenmodelError):
    """The transformation does not apply to this pipeline, or not on this machine; says why."""


class BrokenError(GenmodelError):
    """The transformation is not neutral in itself, before anything is sampled; `code` and `location` say how."""

    def __init__(self, code: str, message: str, *, component: str | None = None, location: str | None = None):
        super().__init__(message)
        self.code = code
        self.component = component
        self.location = location


class Done(str, Enum):
    """When a transformation is done if none is asked for by name; in any case where it is."""

    ALWAYS = "always"
    MOVED = "on an accelerator, and at --genmodel-level=full"
    FULL = "at --genmodel-level=full"
    ASKED = "where it is asked for by name"


@dataclass(frozen=True)
class Neutral:
    """A transformation under its name.

    `apply(bench)` is a context manager: it does it, gives the live pipeline that is to be looked at, and wholly
    undoes it at the end. `observe` says what is looked at (default: a sample; for anything else `apply` has to call
    `bench.base(observe)` before it does anything), `code` is the rule that is broken
    where that changes, `cause` what it then probably is. `leaves` are parts of names of what the library itself is
    known to leave behind: it is taken away, and no finding. `done` says when it is done.
    """

    name: str
    apply: Callable[[Bench], AbstractContextManager[Any]]
    observe: Observe
    code: str
    cause: str
    leaves: tuple[str, ...] = ()
    done: Done = Done.ALWAYS

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.apply) or self.name).splitlines()[0]


_REGISTRY: dict[str, Neutral] = {}


def require_room_for_a_copy(bench: Bench) -> None:
    """For what the library cannot undo, and is done to a deep copy.

    Raises:
        NotHereError: the model is large.
    """
    if bench.is_large:
        raise NotHereError("it cannot be undone, and a second copy of a large model takes twice its memory")


def neutral(
    *,
    cause: str,
    code: str = "GM610",
    observe: Observe = sampled,
    leaves: tuple[str, ...] = (),
    done: Done = Done.ALWAYS,
) -> Callable[[Apply], Callable[[Bench], AbstractContextManager[Any]]]:
    """Register a generator function as a neutral transformation, under its own name; fields as of `Neutral`."""

    def wrap(function: Apply) -> Callable[[Bench], AbstractContextManager[Any]]:
        manager = contextmanager(function)
        name = function.__name__
        _REGISTRY[name] = Neutral(name, manager, observe, code, cause, leaves, done)
        return manager

    return wrap


def all_neutral() -> Mapping[str, Neutral]:
    """Every neutral transformation by name."""
    for module in _MODULES:
        importlib.import_module(f"pytest_genmodel.transformations.{module}")
    return dict(_REGISTRY)


def neutral_named(name: str) -> Neutral:
    """Give the transformation `name`.

    Raises:
        BadInputError: there is none; names the known ones.
    """
    known = all_neutral()
    if name not in known:
        raise BadInputError(f"no neutral transformation is called {name!r} (known: {', '.join(known)})")
    return known[name]
