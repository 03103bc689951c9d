"""What became of one fault under the audited gate, and the score of all of them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OUTCOMES = ("caught", "stopped", "warned", "missed", "not_applicable", "not_run")
"""`caught`: a claim fails. `stopped`: none fails, and one cannot be judged, which is red too. `warned`: the gate is
green, and a warning says what is wrong. `missed`: the gate is green."""
RED = ("caught", "stopped")
JUDGED = ("caught", "stopped", "warned", "missed")


@dataclass(frozen=True)
class ClaimResult:
    """What one claim of the gate said about one fault.

    `allowed` is the allowance without which it would fail or warn, as it was given (`--genmodel-allow GM412`).
    """

    name: str
    outcome: str
    seconds: float
    code: str | None = None
    location: str | None = None
    allowed: str | None = None


@dataclass(frozen=True)
class Result:
    """One fault: its outcome, the reason for it in words, and what each claim said that was judged."""

    fault: str
    summary: str
    layer: str
    applied_to: str
    outcome: str
    reason: str | None = None
    seconds: float = 0.0
    claims: tuple[ClaimResult, ...] = ()

    @property
    def failed(self) -> tuple[ClaimResult, ...]:
        """The claims that fail."""
        return tuple(claim for claim in self.claims if claim.outcome == "failed")

    def to_json(self) -> dict[str, Any]:
        """As the report's schema spells it."""
        return asdict(self) | {"seconds": round(self.seconds, 3), "claims": [asdict(c) for c in self.claims]}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Result:
        """The result as another process has sent it."""
        return cls(**(record | {"claims": tuple(ClaimResult(**claim) for claim in record["claims"])}))


@dataclass
class Score:
    """The results of an audit, counted."""

    results: Sequence[Result]
    control: Sequence[ClaimResult] = field(default=())

    def of(self, outcome: str) -> list[Result]:
        """The results of one outcome."""
        return [result for result in self.results if result.outcome == outcome]

    @property
    def judged(self) -> int:
        """How many faults were judged."""
        return sum(result.outcome in JUDGED for result in self.results)

    @property
    def red(self) -> int:
        """For how many of them the gate would be red."""
        return sum(result.outcome in RED for result in self.results)

    @property
    def share(self) -> float | None:
        """The mutation score: caught of judged; None where nothing was judged."""
        return self.red / self.judged if self.judged else None

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """For each layer how many were caught of how many."""
        found: dict[str, tuple[int, int]] = {}
        for result in self.results:
            if result.outcome in JUDGED:
                red, judged = found.get(result.layer, (0, 0))
                found[result.layer] = red + (result.outcome in RED), judged + 1
        return found

    @property
    def claims(self) -> dict[str, dict[str, Any]]:
        """For each claim: how many faults fail it, how many no cheaper claim catches, and its seconds in all."""
        found: dict[str, dict[str, Any]] = {
            claim.name: {"caught": 0, "first": 0, "seconds": 0.0, "control_seconds": round(claim.seconds, 3)}
            for claim in self.control
        }
        for result in self.results:
            for claim in result.claims:
                entry = found.setdefault(
                    claim.name, {"caught": 0, "first": 0, "seconds": 0.0, "control_seconds": None}
                )
                entry["seconds"] = round(entry["seconds"] + claim.seconds, 3)
                entry["caught"] += claim.outcome == "failed"
            if result.failed:
                found[result.failed[0].name]["first"] += 1
        return found

    def to_json(self) -> dict[str, Any]:
        """The report's section."""
        return {
            "score": None if self.share is None else round(self.share, 4),
            "judged": self.judged,
            "summary": {outcome: len(self.of(outcome)) for outcome in OUTCOMES},
            "layers": {
                layer: {"caught": red, "judged": judged}
                for layer, (red, judged) in sorted(self.layers.items())
            },
            "claims": self.claims,
            "faults": [result.to_json() for result in sorted(self.results, key=lambda r: r.fault)],
        }
