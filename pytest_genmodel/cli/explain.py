"""`genmodel explain CODE`: the page of a rule; imports no model library."""

from __future__ import annotations

import difflib
from typing import Any

from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.diagnosis.rules import RULES, Rule
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.reports.table import table
from pytest_genmodel.reports.text import fold


def explain(code: str | None, terminal: Terminal) -> int:
    """Write the page of the rule `code`, or the list of all; gives the exit status.

    Raises:
        BadInputError: no rule has this code; names the nearest.
    """
    if code is None:
        rules = [RULES[known] for known in sorted(RULES)]
        rows = [(rule.code, rule.severity.value, rule.summary) for rule in rules]
        terminal.say(
            table(("code", "severity", "what"), rows, terminal.width, gives_way=2, left=(0, 1, 2)),
            always=True,
        )
        terminal.document("explain", 0, rules=[_as_json(rule) for rule in rules])
        return 0
    rule = RULES.get(code.upper())
    if rule is None:
        near = difflib.get_close_matches(code.upper(), RULES, n=len(RULES), cutoff=0.5)
        near.sort(key=lambda known: known[:3] != code.upper()[:3])  # of the same band first
        hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
        raise BadInputError(f"no rule has the code {code}{hint} (genmodel explain lists all of them)")
    terminal.say(
        f"{rule.code}: {rule.summary} ({rule.severity.value})", always=True, like=rule.severity.value
    )
    terminal.say(["", fold(rule.meaning, "  ", terminal.width)], always=True)
    terminal.say(["", fold(rule.action, "  What to do: ", terminal.width)], always=True)
    terminal.document("explain", 0, rules=[_as_json(rule)])
    return 0


def _as_json(rule: Rule) -> dict[str, Any]:
    return {
        "code": rule.code,
        "title": rule.summary,
        "severity": rule.severity.value,
        "meaning": rule.meaning,
        "action": rule.action,
    }
