"""`genmodel explain CODE`: the page of a rule; imports no model library.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.diagnosis.rules import RULES, Rule, spelled, unknown
from pytest_genmodel.diagnosis.rules.page import Section, sections
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.reports.table import table
from pytest_genmodel.reports.text import fold, printable


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
    ours = "genmodel explain lists all of them"
    mine = f"{ours}; one of your project: pytest --genmodel-explain={code}"
    rule = known_rule(code, ours if code.upper().startswith("GM") else mine)
    first, *rest = page_lines(rule, terminal.width)
    terminal.say(first, always=True, like=rule.severity.value)
    terminal.say(rest, always=True)
    terminal.document("explain", 0, rules=[_as_json(rule)])
    return 0


def known_rule(code: str, where: str) -> Rule:
    """The rule of `code`, in whatever case it was typed.

    Raises:
        BadInputError: no rule has this code; names the nearest, and says `where` all of them are.
    """
    rule = RULES.get(spelled(code))
    if rule is None:
        raise BadInputError(unknown(code, where))
    return rule


def page_lines(rule: Rule, width: int) -> Iterator[str]:
    """The page of a rule in lines of at most `width`; an example stands as it is."""
    yield f"{rule.code}: {rule.summary} ({rule.severity.value})"
    for part in page(rule):
        yield ""
        yield part.title
        for paragraph in part.paragraphs:
            yield from fold(printable(paragraph), "  ", width).splitlines()
        for point in part.points:
            yield from fold(printable(point), "  - ", width).splitlines()
        if part.example:
            yield from [""] if part.paragraphs else []
            yield from textwrap.indent(printable(part.example), "    ").splitlines()


def page(rule: Rule) -> tuple[Section, ...]:
    """The page of a rule, with the invariants that say it and the faults that show it."""
    from pytest_genmodel.faults.by_rule import faults_of
    from pytest_genmodel.invariants.said_by import said_by

    faults = faults_of(rule.code)
    claims = {*said_by(rule.code), *(fault.invariant for fault in faults)}
    return sections(rule, sorted(claims), [(fault.name, fault.summary) for fault in faults])


def _as_json(rule: Rule) -> dict[str, Any]:
    return {
        "code": rule.code,
        "title": rule.summary,
        "severity": rule.severity.value,
        "meaning": rule.meaning,
        "example": rule.example,
        "action": rule.action,
        "seen_in": list(rule.seen_in),
    }
