"""The registry of invariants: built-in ones and those a project adds."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, overload

from pytest_genmodel.diagnosis.allowance import ALLOW
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Rule, register
from pytest_genmodel.errors import BadInputError

Claim = Callable[..., Iterable[Finding]]
ClaimT = TypeVar("ClaimT", bound=Claim)


class Level(str, Enum):
    """How deep a run goes: files only; a few short samples; everything, whole clips."""

    STATIC = "static"
    QUICK = "quick"
    FULL = "full"

    def allows(self, needed: Level) -> bool:
        """Whether a run at this level includes what needs level `needed`."""
        order = list(Level)
        return order.index(needed) <= order.index(self)


@dataclass(frozen=True)
class Invariant:
    """A claim under its name.

    `level` is the least level at which it is judged; `needs_reference` says that it compares with one, and
    `takes_baseline` that what a baseline holds of one is enough.
    `function(context, **parameters)` yields findings; none means that the claim holds.
    """

    name: str
    function: Claim
    level: Level
    needs_reference: bool
    code: str | None = None
    check_values: Callable[[Mapping[str, Any]], None] | None = None
    takes_baseline: bool = False

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0]

    @property
    def is_ours(self) -> bool:
        """Whether it is one of the package's own, and none of a project's."""
        return self.function.__module__.startswith("pytest_genmodel.")

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the keyword parameters that a marker may give."""
        signature = inspect.signature(self.function)
        return tuple(name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY)

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Refuse parameters that the claim does not take, and values that it cannot.

        Raises:
            BadInputError: names the nearest parameter, or the accepted values.
        """
        for name in parameters:
            if name not in self.parameters:
                accepted = ", ".join(self.parameters) or "none"
                raise BadInputError(
                    f"invariant {self.name!r} takes no parameter {name!r}"
                    f"{_nearest(name, self.parameters)} (accepted: {accepted})"
                )
        if self.check_values is not None:
            self.check_values(parameters)


_REGISTRY: dict[str, Invariant] = {}


@overload
def invariant(function: ClaimT) -> ClaimT: ...


@overload
def invariant(
    *,
    name: str | None = None,
    code: str | None = None,
    level: Level | str = Level.QUICK,
    needs_reference: bool = False,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    takes_baseline: bool = False,
) -> Callable[[ClaimT], ClaimT]: ...


def invariant(
    function: Claim | None = None,
    *,
    name: str | None = None,
    code: str | None = None,
    level: Level | str = Level.QUICK,
    needs_reference: bool = False,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    takes_baseline: bool = False,
) -> Any:
    """Register a function as an invariant, as a decorator with or without arguments.

    Args:
        function: `f(context, *, ...)`, yielding `Finding`s.
        name: what markers call it; the function's own name where not given.
        code: a rule code of your own (not `GM...`) for its findings; its page is the function's docstring.
        level: the least level at which it is judged.
        needs_reference: skip it, with a reason, where no reference was given.
        check: looks at a marker's parameters while tests are collected; raises BadInputError for a wrong value.
        takes_baseline: it asks `context.trusted` and never `context.reference`, so that a baseline is enough.

    Raises:
        BadInputError: the name or the code is taken by another function.
    """

    def wrap(claim: Claim) -> Claim:
        entry = Invariant(
            name or claim.__name__, claim, Level(level), needs_reference, code, check, takes_baseline
        )
        if ALLOW in entry.parameters:
            raise BadInputError(
                f"the invariant {entry.name!r} takes a parameter {ALLOW!r}, which is every marker's own: rename it"
            )
        known = _REGISTRY.get(entry.name)
        if known and (known.function.__module__, known.function.__qualname__) != (
            claim.__module__,
            claim.__qualname__,
        ):
            raise BadInputError(
                f"the invariant name {entry.name!r} is taken by {known.function.__module__}; "
                "give another with @invariant(name=...)"
            )
        if code is not None:
            document = inspect.getdoc(claim) or f"The invariant {entry.name} does not hold."
            register(
                Rule(
                    code,
                    entry.name.replace("_", " "),
                    document,
                    f"Look at what it claims: {entry.summary}",
                )
            )
        _REGISTRY[entry.name] = entry
        return claim

    return wrap(function) if function is not None else wrap


def find(name: str) -> Invariant:
    """Give the invariant `name`.

    Raises:
        BadInputError: there is none; names the nearest.
    """
    entries = all_invariants()
    if name not in entries:
        raise BadInputError(
            f"no invariant is called {name!r}{_nearest(name, tuple(entries))} (known: {', '.join(sorted(entries))})"
        )
    return entries[name]


def all_invariants() -> Mapping[str, Invariant]:
    """Every invariant by name: the built-in ones, then those registered since."""
    package = importlib.import_module("pytest_genmodel.invariants")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(_REGISTRY)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
