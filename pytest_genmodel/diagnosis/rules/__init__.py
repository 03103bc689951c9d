"""The rules: a stable code for each fault, what it means and what to do.

One module a band: 0xx general, 1xx files and safety, 2xx names, shapes, dtypes, 3xx values, 4xx configuration and
schedule, 5xx determinism, 6xx round trip, 7xx training, 8xx adapters. A code is never given to another fault.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity, failing
from pytest_genmodel.errors import BadInputError

__all__ = ["RULES", "Rule", "Severity", "failing", "nearest", "register", "rule_for", "spelled", "unknown"]


def _built_in() -> Iterator[Rule]:
    """The rules of every module of this package: a module is one subject of one band."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        yield from getattr(importlib.import_module(module.name), "RULES", ())


RULES: dict[str, Rule] = {rule.code: rule for rule in sorted(_built_in(), key=lambda rule: rule.code)}
"""Every rule by its code: the built-in ones, then those registered since."""


def register(rule: Rule) -> None:
    """Add a rule of a user's own.

    Raises:
        BadInputError: the code is taken by another rule.
    """
    if RULES.get(rule.code, rule) != rule:
        raise BadInputError(f"the rule code {rule.code} is taken: {RULES[rule.code].summary}")
    RULES[rule.code] = rule


def rule_for(code: str) -> Rule:
    """Give the rule of `code`.

    Raises:
        BadInputError: no rule has this code.
    """
    if code not in RULES:
        raise BadInputError(unknown(code))
    return RULES[code]


def spelled(code: str) -> str:
    """The code as its rule spells it, whatever its case; a code that no rule has stays as it is."""
    if code in RULES:
        return code
    return next((known for known in RULES if known.upper() == code.upper()), code)


def unknown(code: str, where: str = "genmodel explain lists all of them") -> str:
    """Say that no rule has this code, which ones look like it, and `where` all of them are."""
    near = nearest(code)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no rule has the code {code}{hint} ({where})"


def nearest(code: str) -> list[str]:
    """Up to three known codes that look like `code`, the nearest first, those of its band before others."""
    asked = code.upper()
    near = difflib.get_close_matches(asked, RULES, n=len(RULES), cutoff=0.5)
    return sorted(near, key=lambda known: known[:3] != asked[:3])[:3]
