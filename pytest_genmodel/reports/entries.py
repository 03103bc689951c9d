"""The findings of a report as a list: the cause first, each fault once, with its place and what identifies it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_genmodel.diagnosis.limit import KEY, measured_text, passing_text
from pytest_genmodel.reports.places import Place, Places, workspace

_PLACE = ("code", "component", "location")
SEVERITIES = ("error", "warning", "note")


@dataclass
class Entry:
    """One fault of one candidate, whichever invariants found it.

    `identity` is the same in every run of a candidate of this name: it holds no figure and no path of a machine.
    """

    candidate: str
    finding: Mapping[str, Any]
    id: str
    """The pytest item that said it first."""
    found_by: list[str]
    place: Place
    identity: str = ""
    cause: Mapping[str, Any] | None = None
    """What the report says of it as a cause (`causes` in the JSON), where it leads."""
    order: int = 0
    """Its place among the causes of its candidate."""

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return str(self.finding["severity"])

    @property
    def head(self) -> str:
        """Code and title, in one line."""
        return f"{self.finding['code']} {self.finding['title']}"

    @property
    def where(self) -> str:
        """Component and location; empty where the finding names neither."""
        return ": ".join(str(part) for part in (self.finding["component"], self.finding["location"]) if part)

    @property
    def allowed(self) -> str | None:
        """The reason for which it is allowed; None where it is not."""
        allowed = self.finding.get("allowed")
        return str(allowed["reason"]) if allowed else None

    @property
    def figures(self) -> list[tuple[str, str]]:
        """The number against its limit, and what would have passed, where the finding has one."""
        limit = self.finding["evidence"].get(KEY)
        if not isinstance(limit, Mapping):
            return []
        return [("number", measured_text(limit) or ""), ("passes", passing_text(limit))]

    @property
    def weight(self) -> tuple[int, int]:
        """What sorts entries: causes, in their order, then errors, warnings, notes."""
        return (0, self.order) if self.cause is not None else (1, SEVERITIES.index(self.severity))


@dataclass(frozen=True)
class Unjudged:
    """A verdict that is inconclusive: nothing passes by not running."""

    candidate: str
    invariant: str
    id: str
    reason: str

    @property
    def identity(self) -> str:
        """As that of an entry."""
        return _digest("inconclusive", self.candidate, self.id)


@dataclass(frozen=True)
class Listing:
    """What machines are told of a run."""

    entries: list[Entry] = field(default_factory=list)
    unjudged: list[Unjudged] = field(default_factory=list)
    checked_nothing: bool = False

    def of(self, label: str) -> list[Entry]:
        """The entries of one candidate."""
        return [entry for entry in self.entries if entry.candidate == label]

    @property
    def by_reason(self) -> list[list[Unjudged]]:
        """What could not be judged, together where candidate and reason are the same."""
        groups: dict[tuple[str, str], list[Unjudged]] = {}
        for one in self.unjudged:
            groups.setdefault((one.candidate, one.reason), []).append(one)
        return list(groups.values())


def listing(document: Mapping[str, Any], root: Path | None = None) -> Listing:
    """Take the findings out of a report.

    Args:
        document: the report as `schema.json` describes it.
        root: the workspace, of which paths are told; by default what the CI says, or the current folder.

    Raises:
        KeyError, TypeError, ValueError: the document is none.
    """
    places = Places(root or workspace())
    verdicts = document["verdicts"]
    entries: list[Entry] = []
    for candidate in document["candidates"]:
        own = [verdict for verdict in verdicts if verdict["candidate"] == candidate["label"]]
        found = list(_entries(candidate, own, places))
        _tell_causes(found, document, str(candidate["label"]))
        _identify(found)
        entries += sorted(found, key=lambda entry: entry.weight)
    return Listing(
        entries,
        [
            Unjudged(str(one["candidate"]), str(one["invariant"]), str(one["id"]), str(one["reason"]))
            for one in verdicts
            if one["outcome"] == "inconclusive"
        ],
        bool(verdicts) and all(verdict["outcome"] == "skipped" for verdict in verdicts),
    )


def _entries(
    candidate: Mapping[str, Any], verdicts: list[Mapping[str, Any]], places: Places
) -> Iterator[Entry]:
    """One entry for a code at a location: another invariant that says it too is added to the first."""
    known: dict[tuple[Any, ...], Entry] = {}
    for verdict in verdicts:
        invariant = str(verdict["invariant"])
        for finding in verdict["findings"]:
            if finding["severity"] not in SEVERITIES:
                raise ValueError(f"no severity: {finding['severity']!r}")
            key = (*(finding[name] for name in _PLACE), finding["severity"])
            worded = (*key, finding["message"])
            same = known.get(worded)
            entry = same or known.get(key)
            if entry is not None and (same or invariant not in entry.found_by):
                if invariant not in entry.found_by:
                    entry.found_by.append(invariant)
                continue
            new = Entry(
                str(candidate["label"]),
                finding,
                str(verdict["id"]),
                [invariant],
                places.of(candidate, finding),
            )
            known[worded] = new
            known.setdefault(key, new)
            yield new


def _tell_causes(entries: list[Entry], document: Mapping[str, Any], label: str) -> None:
    """Give each entry that leads what the report says of it; a report of an older version has no causes."""
    places = {tuple(entry.finding[name] for name in _PLACE): entry for entry in reversed(entries)}
    for number, cause in enumerate(one for one in document.get("causes", ()) if one["candidate"] == label):
        entry = places.get(tuple(cause[name] for name in _PLACE))
        if entry is not None and entry.cause is None:
            entry.cause, entry.order = cause, number


def _identify(entries: list[Entry]) -> None:
    """Digest of candidate, code, component and location; a number where several are alike."""
    seen: dict[str, int] = {}
    for entry in entries:
        finding = entry.finding
        base = _digest(entry.candidate, finding["code"], finding["component"], finding["location"])
        seen[base] = number = seen.get(base, 0) + 1
        entry.identity = base if number == 1 else _digest(base, str(number))


def _digest(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]
