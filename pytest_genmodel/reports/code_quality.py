"""GitLab's Code Quality report: what a merge request shows as degradations.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_genmodel.reports.entries import Entry, Unjudged, listing
from pytest_genmodel.reports.text import printable, shortened

SEVERITIES = {"error": "critical", "warning": "minor", "note": "info"}
"""GitLab's words: info, minor, major, critical, blocker."""
MOST_TEXT = 1000


def code_quality(document: Mapping[str, Any], root: Path | None = None) -> str:
    """The findings in the format that GitLab documents for tools of one's own: a JSON array.

    GitLab needs a path below the repository; a finding that lies in no file there is given the name of its place.
    Takes and raises what every view does (`views.View`).
    """
    found = listing(document, root)
    issues = [*map(_issue, found.entries), *map(_unjudged, found.unjudged)]
    return json.dumps(issues, indent=2, allow_nan=False) + "\n"


def _issue(entry: Entry) -> dict[str, Any]:
    said = f"allowed: {entry.allowed}" if entry.allowed else str(entry.finding["message"])
    return _spelled(
        ": ".join(part for part in (entry.head, entry.where, said) if part),
        str(entry.finding["code"]),
        entry.identity,
        SEVERITIES[entry.severity],
        entry.place.name,
        entry.place.line,
    )


def _unjudged(one: Unjudged) -> dict[str, Any]:
    said = f"{one.invariant} could not be judged: {one.reason}"
    return _spelled(said, one.invariant, one.identity, "major", printable(one.candidate), 1)


def _spelled(text: str, check: str, fingerprint: str, severity: str, path: str, line: int) -> dict[str, Any]:
    return {
        "description": shortened(" ".join(printable(text).split()), MOST_TEXT),
        "check_name": check,
        "fingerprint": fingerprint,
        "severity": severity,
        "location": {"path": path, "lines": {"begin": line}},
    }
