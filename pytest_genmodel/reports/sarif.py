"""SARIF 2.1.0, which code-scanning pages and editors read.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pytest_genmodel.diagnosis.rules import RULES
from pytest_genmodel.reports.entries import Entry, Listing, listing
from pytest_genmodel.reports.text import printable

VERSION = "2.1.0"
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MOST_RESULTS = 5000
"""What GitHub shows of a run; it takes 25 000 ("SARIF support for code scanning")."""
FINGERPRINT = "primaryLocationLineHash"
"""The fingerprint by which GitHub knows a result again; other readers take any name."""


def sarif(document: Mapping[str, Any], root: Path | None = None) -> str:
    """The report as one SARIF log: its findings are results, what could not be judged are notifications.

    Takes and raises what every view does (`views.View`).
    """
    found = listing(document, root)
    shown = sorted(found.entries, key=lambda entry: entry.weight)[:MOST_RESULTS]
    codes = list(dict.fromkeys(str(entry.finding["code"]) for entry in shown))
    titles = {str(entry.finding["code"]): entry for entry in reversed(shown)}
    log = {
        "$schema": SCHEMA,
        "version": VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "pytest-genmodel",
                        "version": str(document["tool"]["version"]),
                        "rules": [_rule(code, titles[code]) for code in codes],
                    }
                },
                "automationDetails": {"id": "pytest-genmodel/"},
                "originalUriBaseIds": {"SRCROOT": {"description": {"text": "The root of the repository."}}},
                "columnKind": "unicodeCodePoints",
                "invocations": [_invocation(document, found, len(found.entries) - len(shown))],
                "results": [_result(entry, codes.index(str(entry.finding["code"]))) for entry in shown],
            }
        ],
    }
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _rule(code: str, entry: Entry) -> dict[str, Any]:
    """The rule's own text; of a code that is not known here (a user's own, an older version's) its title alone."""
    rule = RULES.get(code)
    title = rule.summary if rule else str(entry.finding["title"])
    said: dict[str, Any] = {"id": printable(code), "shortDescription": {"text": printable(title)}}
    if rule is not None:
        severity = rule.severity.value
        text = f"{rule.meaning}\n\nWhat to do: {rule.action}"
        said["fullDescription"] = {"text": rule.meaning}
        said["help"] = {"text": text, "markdown": f"{rule.meaning}\n\n**What to do:** {rule.action}"}
    else:
        severity = entry.severity
    said["defaultConfiguration"] = {"level": severity}
    return said


def _result(entry: Entry, index: int) -> dict[str, Any]:
    finding = entry.finding
    parts = [str(finding["message"]), *([f"Cause: {finding['cause']}"] if finding["cause"] else [])]
    logical = _logical(entry)
    allowed = entry.allowed
    suppressed = (
        {"suppressions": [{"kind": "external", "justification": printable(allowed)}]} if allowed else {}
    )
    physical = {
        "artifactLocation": {"uri": quote(os.fsencode(entry.place.name)), "uriBaseId": "SRCROOT"},
        "region": {"startLine": entry.place.line},
    }
    return {
        "ruleId": printable(str(finding["code"])),
        "ruleIndex": index,
        "level": entry.severity,
        "message": {"text": printable("\n".join([*parts, f"Action: {finding['action']}"]))},
        "locations": [{"physicalLocation": physical, **({"logicalLocations": [logical]} if logical else {})}],
        "partialFingerprints": {FINGERPRINT: entry.identity},
        **suppressed,
        "properties": {
            "candidate": printable(entry.candidate),
            "foundBy": entry.found_by,
            "item": printable(entry.id),
        },
    }


def _logical(entry: Entry) -> dict[str, Any] | None:
    """Component and tensor, configuration key, step or frame."""
    component, location = entry.finding["component"], entry.finding["location"]
    parts = [printable(str(part)) for part in (component, location) if part]
    if not parts:
        return None
    kind = {"kind": "module"} if not location else {}
    return {"name": parts[-1], "fullyQualifiedName": "/".join(parts), **kind}


def _invocation(document: Mapping[str, Any], found: Listing, left_out: int) -> dict[str, Any]:
    said = [
        {
            "level": "error",
            "message": {"text": printable(f"{one.invariant} could not be judged: {one.reason}")},
            "properties": {"candidate": printable(one.candidate), "item": printable(one.id)},
        }
        for one in found.unjudged
    ]
    said += _general(document, found, left_out)
    return {
        "executionSuccessful": bool(document["complete"]),
        "exitCode": int(document["exit_status"]),
        "toolExecutionNotifications": said,
    }


def _general(document: Mapping[str, Any], found: Listing, left_out: int) -> Iterable[dict[str, Any]]:
    if found.checked_nothing:
        yield {"level": "error", "message": {"text": "Nothing was judged: every invariant was skipped."}}
    if not document["complete"]:
        yield {
            "level": "error",
            "message": {"text": "The run was broken off: less was judged than was asked."},
        }
    if left_out:
        text = f"{left_out} more findings are left out; the JSON report has all of them."
        yield {"level": "warning", "message": {"text": text}}
