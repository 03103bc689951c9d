"""GitHub's workflow commands: what it shows beside the changed files, and on the page of the run.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_genmodel.reports.entries import Entry, Listing, Unjudged, listing
from pytest_genmodel.reports.replay import replay_of
from pytest_genmodel.reports.text import printable, shortened

MOST = 10
"""GitHub keeps ten annotations of a kind from a step and drops the others (its toolkit's problem-matchers.md)."""
MOST_TEXT = 2000
KINDS = {"error": "error", "warning": "warning", "note": "notice"}


def workflow_commands(document: Mapping[str, Any], root: Path | None = None) -> str:
    """The findings as workflow commands, a line each, the most important first; empty where nothing was found.

    Of more than `MOST` of a kind the last one kept says how many were left out. Takes and raises what every view does
    (`views.View`).
    """
    found = listing(document, root)
    several = len(document["candidates"]) > 1
    lines = []
    entries = sorted(found.entries, key=lambda entry: entry.weight)
    for severity, kind in KINDS.items():
        own = [_finding(kind, entry, document, several) for entry in entries if entry.severity == severity]
        if kind == "error":
            own += _unjudged(found, document, several)
        if len(own) > MOST:
            left = len(own) - MOST + 1
            own[MOST - 1 :] = [
                command(kind, f"and {left} more", f"{left} more are in the job summary and in the report")
            ]
        lines += own
    return "".join(f"{line}\n" for line in lines)


def command(kind: str, title: str, message: str, file: str | None = None, line: int = 1) -> str:
    """One workflow command, in one line whatever the texts hold.

    Data escapes %, CR and LF; a property : and , too (the escaping of GitHub's toolkit, `command.ts`).
    """
    properties = {"file": file, "line": str(line) if file and line > 1 else None, "title": title}
    spelled = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    return f"::{kind} {spelled}::{_data(shortened(message, MOST_TEXT))}"


def _finding(kind: str, entry: Entry, document: Mapping[str, Any], several: bool) -> str:
    finding = entry.finding
    parts = [f"{entry.where}: {finding['message']}" if entry.where else str(finding["message"])]
    if finding["cause"]:
        parts.append(f"cause: {finding['cause']}")
    parts.append(f"allowed: {entry.allowed}" if entry.allowed else f"action: {finding['action']}")
    parts += [f"{name}: {figure}" for name, figure in entry.figures if figure]
    if again := replay_of(document, entry.id):
        parts.append(f"replay: {again}")
    title = f"{entry.head} ({entry.candidate})" if several else entry.head
    return command(kind, title, "\n".join(parts), entry.place.file, entry.place.line)


def _unjudged(found: Listing, document: Mapping[str, Any], several: bool) -> list[str]:
    lines = [_not_judged(group, document, several) for group in found.by_reason]
    if found.checked_nothing:
        lines.append(command("error", "nothing was judged", "every invariant was skipped, so this run fails"))
    return lines


def _not_judged(group: Sequence[Unjudged], document: Mapping[str, Any], several: bool) -> str:
    """One annotation for one reason, whatever it keeps from being judged."""
    names = list(dict.fromkeys(one.invariant for one in group))
    title = names[0] if len(names) == 1 else f"{len(names)} claims"
    of = f" ({group[0].candidate})" if several else ""
    parts = [group[0].reason, *([f"not judged: {', '.join(names)}"] if len(names) > 1 else [])]
    if again := replay_of(document, group[0].id):
        parts.append(f"replay: {again}")
    return command("error", f"{title}{of} could not be judged", "\n".join(parts))


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
