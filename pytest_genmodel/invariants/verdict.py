"""An invariant's outcome with its findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pytest_genmodel.diagnosis.finding import Finding


class Outcome(str, Enum):
    """Passed, failed; skipped: does not apply or was not asked for; inconclusive: should apply, not judged."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """What came of judging one invariant. `reason` says why it was skipped or could not be judged.

    `attachments` are texts that help to read a failure (what a trainer printed last), by their titles; they are
    shown beside it and are no part of the report's schema. `compared` are the samples that were compared
    (`samples.SampleComparison`), where the run is saved.
    """

    invariant: str
    outcome: Outcome
    seconds: float
    reason: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    attachments: Mapping[str, str] = field(default_factory=dict)
    compared: Sequence[Any] = ()

    def to_json(self) -> dict[str, Any]:
        """The verdict as the report's schema spells it; the item adds its id and candidate."""
        return {
            "invariant": self.invariant,
            "outcome": self.outcome.value,
            "seconds": round(self.seconds, 3),
            "reason": self.reason,
            "parameters": {name: _spelled(value) for name, value in self.parameters.items()},
            "measurements": dict(self.measurements),
            "findings": [finding.to_json() for finding in self.findings],
        }


def _spelled(value: Any) -> str:
    """A function by its name: where it lies in memory is another place in each process."""
    return str(getattr(value, "__qualname__", value))
