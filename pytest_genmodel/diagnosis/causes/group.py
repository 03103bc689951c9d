"""Findings of one code in one component, whichever invariants have made them: what is a cause, or is explained.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_genmodel.diagnosis.causes.stages import MARKS, STAGES, Stage, spelled, stage_of

SEVERITIES = ("error", "warning")
"""What can be a cause, the worst first; a note is no fault."""
_ORDER = (
    *("coverage", "sound_weights", "same_weights", "same_config", "sound_schedule", "denoiser_call"),
    *("seeded_sampling", "sound_video"),
)
"""In what order the invariants are asked for the finding that leads; all others follow by their ids."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """The findings of one code in one component, each with the verdict that it is from; the worst first."""

    kind: str
    code: str
    component: str | None
    members: tuple[tuple[Record, Record], ...]

    @cached_property
    def place(self) -> int:
        """Where it stands in `STAGES`."""
        return stage_of(self.kind)

    @property
    def stage(self) -> Stage:
        """Its stage."""
        return STAGES[self.place]

    @property
    def lead(self) -> Record:
        """The finding that speaks for all."""
        return self.members[0][0]

    @property
    def severity(self) -> int:
        """The worst of its severities, as a place in `SEVERITIES`."""
        return SEVERITIES.index(str(self.lead["severity"]))

    @property
    def is_mark(self) -> bool:
        """Whether it may also be what was meant."""
        return bool(MARKS.fullmatch(self.code))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The verdicts that hold one of its findings, the leading one's first."""
        return tuple(dict.fromkeys(str(verdict["id"]) for _, verdict in self.members))

    @cached_property
    def found_by(self) -> tuple[str, ...]:
        """Their invariants."""
        return tuple(dict.fromkeys(str(verdict["invariant"]) for _, verdict in self.members))

    @cached_property
    def locations(self) -> tuple[str, ...]:
        """Every place, without the component."""
        return tuple(dict.fromkeys(str(f["location"]) for f, _ in self.members if f["location"]))

    @cached_property
    def names(self) -> frozenset[str]:
        """Every tensor, file and key that it is about, those among the evidence too."""
        listed = (name for f, _ in self.members for name in f["evidence"].get("tensors", ()) or ())
        return frozenset(name.rstrip("/") for name in (*self.locations, *map(str, listed)))

    @cached_property
    def count(self) -> int | None:
        """How many tensors the leading finding is about, where it says so."""
        count = self.lead["evidence"].get("count")
        return count if isinstance(count, int) else None


def groups_of(verdicts: Iterable[Record]) -> list[Group]:
    """Group what is more than a note, the nearest to the root first; the same whatever order they came in."""
    found: dict[tuple[str, str | None], list[tuple[Record, Record]]] = {}
    for verdict in in_order(verdicts):
        for finding in verdict["findings"]:
            if finding["severity"] in SEVERITIES:
                kind = spelled(finding["code"], verdict["invariant"])
                found.setdefault((kind, finding["component"]), []).append((finding, verdict))
    groups = [
        Group(kind, str(members[0][0]["code"]), component, tuple(sorted(members, key=_weight)))
        for (kind, component), members in found.items()
    ]
    return sorted(groups, key=lambda group: group.place)


def in_order(verdicts: Iterable[Record]) -> Sequence[Record]:
    """The verdicts in one order, however the workers of a run have sent them."""

    def place(verdict: Record) -> tuple[int, str]:
        name = verdict["invariant"]
        return (_ORDER.index(name) if name in _ORDER else len(_ORDER), str(verdict["id"]))

    return sorted(verdicts, key=place)


def _weight(member: tuple[Record, Record]) -> int:
    return SEVERITIES.index(str(member[0]["severity"]))
