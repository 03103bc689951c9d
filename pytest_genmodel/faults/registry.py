"""The registry of faults: real breakages, each with the thread it imitates and the code that must name it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Subject = Literal["pipeline", "trained", "adapter"]
Inject = Callable[[Path], "Path | None"]

_MODULES = ("values", "names", "files", "adapters", "drift")


@dataclass(frozen=True)
class Fault:
    """A breakage that can be injected into a throw-away copy.

    `inject(folder)` damages a checkpoint in place and gives the path to judge, where it is not the folder.
    `subject` says what the folder must hold: any tiny pipeline, a trained one, or a LoRA as diffusers saves it.
    `invariant` is the claim that fails, `code` the one rule it names, `component` and `location` the place.
    `expect` is the expectation to state; with one, the healthy model is the reference.
    """

    name: str
    inject: Inject
    code: str
    invariant: str
    component: str | None
    location: str | None
    severity: str
    subject: Subject
    expect: str | None
    needs_reference: bool
    seen_in: str | None

    @property
    def summary(self) -> str:
        """What it imitates, in one line."""
        return (inspect.getdoc(self.inject) or self.name).splitlines()[0]


_FAULTS: dict[str, Fault] = {}


def fault(
    code: str,
    invariant: str = "sound_weights",
    *,
    component: str | None = "transformer",
    location: str | None = None,
    severity: str = "error",
    subject: Subject = "pipeline",
    expect: str | None = None,
    needs_reference: bool = False,
    seen_in: str | None = None,
) -> Callable[[Inject], Inject]:
    """Register a function as a fault, under its own name; the fields are those of `Fault`."""

    def wrap(inject: Inject) -> Inject:
        _FAULTS[inject.__name__] = Fault(
            inject.__name__,
            inject,
            code,
            invariant,
            component,
            location,
            severity,
            subject,
            expect,
            needs_reference or expect is not None or subject == "adapter",
            seen_in,
        )
        return inject

    return wrap


def all_faults() -> Mapping[str, Fault]:
    """Every fault by name."""
    for module in _MODULES:
        importlib.import_module(f"pytest_genmodel.faults.{module}")
    return dict(_FAULTS)
