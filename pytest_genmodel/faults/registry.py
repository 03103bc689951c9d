"""The registry of faults: real breakages, each with the thread it imitates and the code that must name it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pytest_genmodel.faults.copy import Copy

KINDS = ("checkpoint", "adapter", "environment")
"""What a fault is applied to."""
LAYERS = (
    "checkpoint-container",
    "config",
    "dataset-cache",
    "distributed-save",
    "dtype",
    "ema",
    "image-conditioning",
    "key-naming",
    "lora",
    "offload/device",
    "optimizer",
    "positional-embedding",
    "precision/attention-backend",
    "quantization",
    "rng/determinism",
    "scheduler",
    "security",
    "text-encoder",
    "trainer-loop",
    "vae",
    "version-skew",
    "weights-values",
)
"""Where real faults sit, in the order in which a report lists them."""

_MODULES = (
    "values",
    "names",
    "files",
    "configuration",
    "texts",
    "drift",
    "adapters",
    "experts",
    "conditioning",
    "prompts",
    "attention",
    "schedules",
    "randomness",
    "loading",
    "decoding",
    "conversion",
    "dealing",
)


class Place(NamedTuple):
    """Where a fault sits: the component, and the exact tensor or configuration key where one can be named."""

    component: str | None
    location: str | None = None

    def holds(self, component: str | None, location: str | None) -> bool:
        """Whether what was found there is the fault's; a file is enough where a finding says the byte too."""
        location = location or ""
        return component == self.component and (
            self.location is None
            or location == self.location
            or (":" not in self.location and location.startswith(f"{self.location}:"))
        )


class Injected(NamedTuple):
    """What an injection made: the path to judge, and where the fault sits."""

    path: Path
    place: Place


@dataclass(frozen=True)
class Fault:
    """A breakage that can be injected on purpose.

    `kind` says what it is applied to: a whole pipeline's folder, a LoRA as diffusers saves it, or the environment
    of a run (a library with a bug: candidate and reference alike). `invariant` is the claim that must fail,
    `code` the rule that it must name, `severity` how much that weighs, `level` the least level at which it shows.
    `model` is the tiny pipeline that it is made of, `expect` the expectation under which it shows, with
    `needs_reference` the healthy model as the reference. `entries` are the ids of the real faults it imitates,
    `seen_in` their threads.
    """

    name: str
    function: Callable[..., Any]
    kind: str
    layer: str
    code: str | None
    invariant: str
    severity: str
    level: str
    model: str
    expect: str | None
    needs_reference: bool
    entries: tuple[str, ...]
    seen_in: str | None
    place: Place | None
    only_if_trained: bool = False
    """Whether it is a fault only where the candidate is said to be trained (`--genmodel-expect=finetuned`)."""

    @property
    def summary(self) -> str:
        """What it imitates, in one line."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0]

    def inject(self, folder: Path, reference: Path | None = None) -> Injected:
        """Damage the checkpoint in `folder`; `reference` is the folder that it is compared with.

        Raises:
            DoesNotApplyError: the fault cannot be made of this checkpoint.
        """
        found = self.function(Copy(folder, reference))
        if isinstance(found, Injected):
            return found
        return Injected(folder, found if isinstance(found, Place) else Place(None))

    def broken(self, folder: Path) -> AbstractContextManager[None]:
        """Break the library for as long as the context lasts; `folder` holds the model that is judged in it.

        Raises:
            DoesNotApplyError: on entering: the model does not use that part of the library.
        """
        context: AbstractContextManager[None] = self.function(Copy(folder))
        return context


_FAULTS: dict[str, Fault] = {}
Function = Callable[..., Any]


def fault(
    code: str | None,
    invariant: str = "sound_weights",
    *,
    layer: str,
    severity: str = "error",
    kind: str = "checkpoint",
    level: str = "static",
    model: str = "cogvideox-i2v",
    expect: str | None = None,
    needs_reference: bool = False,
    entries: tuple[str, ...] = (),
    seen_in: str | None = None,
    place: Place | None = None,
    only_if_trained: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a fault, under its own name; the fields are those of `Fault`."""

    def wrap(function: Function) -> Function:
        _FAULTS[function.__name__] = Fault(
            function.__name__,
            function,
            kind,
            layer,
            code,
            invariant,
            severity,
            level,
            model,
            expect,
            needs_reference or expect is not None or kind == "adapter",
            entries,
            seen_in,
            place,
            only_if_trained,
        )
        return function

    return wrap


def broken_library(
    code: str | None,
    invariant: str,
    *,
    layer: str,
    place: Place | None = None,
    level: str = "quick",
    model: str = "cogvideox-i2v",
    entries: tuple[str, ...] = (),
    seen_in: str | None = None,
) -> Callable[[Function], Function]:
    """Register a context manager as a fault of the environment: it breaks the library while it lasts."""
    return fault(
        code,
        invariant,
        layer=layer,
        kind="environment",
        level=level,
        model=model,
        needs_reference=True,
        entries=entries,
        seen_in=seen_in,
        place=place,
    )


def all_faults() -> Mapping[str, Fault]:
    """Every fault by name, in the order of the modules, whichever of them was imported first."""
    names = [f"pytest_genmodel.faults.{module}" for module in _MODULES]
    for name in names:
        importlib.import_module(name)
    return dict(sorted(_FAULTS.items(), key=lambda item: names.index(item[1].function.__module__)))
