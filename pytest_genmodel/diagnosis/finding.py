"""A finding: one observed fault, as data that every view of a report can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.diagnosis.rules import Severity, rule_for

MOST_NAMES = 200
"""Names that one finding lists; the count is always complete."""


@dataclass(frozen=True)
class Finding:
    """One observed fault.

    `location` is the exact tensor name, `file.json:key`, `step 3` or `frame 5`. `severity` and `action` default
    to the rule's. `evidence` holds plain JSON values. Raises BadInputError for an unknown code. `allowed` says by
    which allowance it is a note: `allowance`, `reason`, `by`, and the `severity` that it had.
    """

    code: str
    message: str
    component: str | None = None
    location: str | None = None
    severity: Severity | None = None
    cause: str | None = None
    action: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    allowed: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        rule = rule_for(self.code)
        object.__setattr__(self, "severity", Severity(self.severity or rule.severity))
        object.__setattr__(self, "action", self.action or rule.action)

    def to_json(self) -> dict[str, Any]:
        """The finding as the report's schema spells it."""
        return {
            "code": self.code,
            "title": rule_for(self.code).summary,
            "severity": Severity(self.severity or Severity.ERROR).value,
            "component": self.component,
            "location": self.location,
            "message": self.message,
            "cause": self.cause,
            "action": self.action,
            "evidence": dict(self.evidence),
            "allowed": dict(self.allowed) if self.allowed else None,
        }


def name_evidence(names: list[str]) -> dict[str, Any]:
    """Evidence for a finding about many tensors: how many, and the first of them."""
    return {"count": len(names), "tensors": names[:MOST_NAMES]}


_SINGULAR = {
    "are": "is",
    "carry": "carries",
    "differ": "differs",
    "have": "has",
    "hold": "holds",
    "lie": "lies",
}


def finding_of(
    code: str,
    names: list[str],
    what: str,
    *,
    of: int | None = None,
    noun: str = "tensors",
    after: str = "",
    **fields: Any,
) -> Finding:
    """A finding about several tensors, in one sentence: `3 of 40 tensors hold NaN: blocks.{0..2}.weight`.

    Args:
        code: the rule.
        names: the tensors, at least one; the first is the location.
        what: what is said of them, verb first and in the plural.
        of: how many there are in all.
        noun: what they are, in the plural; `of the file's tensors` stays so for one.
        after: what follows the names.
        fields: the other fields of the finding; `evidence` is added to that of the names.
    """
    count = len(names)
    if count == 1:
        verb, space, rest = what.partition(" ")
        what = f"{_SINGULAR.get(verb, verb)}{space}{rest}".replace(" and are ", " and is ")
    if (of or count) == 1 and not noun.startswith("of "):
        noun = "matrix" if noun == "matrices" else noun.removesuffix("s")
    number = f"{count} of {of}" if of is not None else str(count)
    evidence = name_evidence(names) | fields.pop("evidence", {})
    message = f"{number} {noun} {what}: {summarise(names)}{after}"
    return Finding(code, message, **{"location": names[0], **fields}, evidence=evidence)
