"""General rules: 0xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM010",
        "assertion of an invariant failed",
        "An invariant of the project's own was written with an assert, and the assert failed.",
        "Read what the assertion says; give the invariant a rule code of its own to explain it.",
    ),
)
