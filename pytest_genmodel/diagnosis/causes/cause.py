"""A cause: the finding that explains the others, how sure that is, and what it cannot be.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_genmodel.diagnosis.causes.case import NotLookedAt, RuledOut


class Confidence(str, Enum):
    """How sure a cause is.

    `CERTAIN`: an error that is read from files and configurations, exactly (a byte, a name, a shape, a value), or a
    mark that a fault leaves (a matrix of zeros) in tensors of which the reference's are others.
    `LIKELY`: a symptom with one explanation left, because what else could explain it is ruled out, or because a
    trainer was watched doing it; or a mark (an alpha that is not there) that weighs as an error, or alone explains
    something that was found.
    `POSSIBLE`: several explanations are left, or the mark may be what was meant.
    """

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True)
class Explained:
    """A code in a component that a cause explains, where it was found, and `why` in words."""

    code: str
    title: str
    severity: str
    component: str | None
    locations: tuple[str, ...]
    ids: tuple[str, ...]
    found_by: tuple[str, ...]
    why: str

    def to_json(self) -> dict[str, Any]:
        """As the report's schema spells it."""
        return {
            "code": self.code,
            "title": self.title,
            "severity": self.severity,
            "component": self.component,
            "location": self.locations[0] if self.locations else None,
            "ids": list(self.ids),
            "why": self.why,
        }


@dataclass(frozen=True)
class Unjudged:
    """A verdict that could not be given for this cause."""

    id: str
    invariant: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """As the report's schema spells it."""
        return {"id": self.id, "why": self.why}


@dataclass(frozen=True)
class Cause:
    """What explains itself alone, or others too.

    `finding` is the record that leads, `id` its verdict, `locations` every place at which it was found. `stage` is
    where it sits on the way from the files to the video. `conclusion` says in one sentence what is left.
    """

    finding: Mapping[str, Any]
    id: str
    found_by: tuple[str, ...]
    ids: tuple[str, ...]
    locations: tuple[str, ...]
    stage: str
    confidence: Confidence
    explains: tuple[Explained, ...]
    unjudged: tuple[Unjudged, ...]
    ruled_out: tuple[RuledOut, ...]
    not_looked_at: tuple[NotLookedAt, ...]
    conclusion: str

    @property
    def code(self) -> str:
        """The leading finding's rule."""
        return str(self.finding["code"])

    @property
    def component(self) -> str | None:
        """The leading finding's component."""
        return None if self.finding["component"] is None else str(self.finding["component"])

    @property
    def location(self) -> str | None:
        """The leading finding's place."""
        return None if self.finding["location"] is None else str(self.finding["location"])

    def to_json(self) -> dict[str, Any]:
        """As the report's schema spells it; the report adds the candidate."""
        return {
            "id": self.id,
            **{name: self.finding[name] for name in ("code", "title", "severity", "component", "location")},
            "stage": self.stage,
            "confidence": self.confidence.value,
            "conclusion": self.conclusion,
            "explains": [explained.to_json() for explained in self.explains],
            "unjudged": [unjudged.to_json() for unjudged in self.unjudged],
            "ruled_out": [ruled_out.to_json() for ruled_out in self.ruled_out],
            "not_looked_at": [not_looked_at.to_json() for not_looked_at in self.not_looked_at],
        }
