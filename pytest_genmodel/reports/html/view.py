"""From the report's document to what the page shows: candidates, causes, faults in their order, rules, tables.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_genmodel.diagnosis.causes import Cause, causes
from pytest_genmodel.diagnosis.limit import limit_in, measured_text, passing_text
from pytest_genmodel.diagnosis.rules import RULES
from pytest_genmodel.reports.counts import OUTCOMES, count
from pytest_genmodel.reports.html.figures import figures
from pytest_genmodel.reports.replay import replay_of

MOST_FAULTS = 200
"""Faults of a candidate that the page shows, and places of a fault; the JSON report has all of them."""
MOST_PLACES = 20
MOST_TEXT = 2000
MOST_CAUSES = 5
SEVERITIES = ("error", "warning", "note")
_SECTIONS = ("checkpoint", "adapters", "round_trip", "sampling", "liveness", "training")
"""What is at rest explains what is sampled, and that what is trained."""
_STATES = {
    "failed": "fails",
    "inconclusive": "could not be judged",
    "nothing": "nothing was judged",
    "passed": "passes",
}


def view(document: Mapping[str, Any], footage: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the template is given.

    Args:
        document: the report as `schema.json` describes it.
        footage: for a candidate's label what was sampled of it, with pictures where there are any.
    """
    options = str(document.get("command", {}).get("options", ""))
    candidates = [
        _candidate(number, candidate, document, footage.get(str(candidate["label"])), options)
        for number, candidate in enumerate(document["candidates"], start=1)
    ]
    codes = sorted({fault["code"] for candidate in candidates for fault in candidate["faults"]})
    components = sorted({fault["component"] or "" for each in candidates for fault in each["faults"]})
    state = next(
        state for state in _STATES if state in {each["state"] for each in candidates} or state == "passed"
    )
    return {
        "document": document,
        "candidates": candidates,
        "rules": [_rule(code, candidates) for code in codes],
        "severities": SEVERITIES,
        "components": components,
        "outcomes": OUTCOMES,
        "state": state,
        "said": _STATES[state],
        "seconds": sum(float(verdict["seconds"]) for verdict in document["verdicts"]),
        "verdicts": len(document["verdicts"]),
        "command_line": document.get("command", {}).get("line"),
        "allowances": document.get("allowances", ()),
    }


def anchor(code: str) -> str:
    """The place of a rule on the page, whatever its code is made of."""
    return "rule-" + re.sub(r"[^A-Za-z0-9_-]", "_", code)


def limits(finding: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """The number against its limit and what would have passed, in words; nothing where there is no number."""
    limit = limit_in(finding["evidence"])
    return [] if limit is None else [(measured_text(limit), passing_text(limit))]


def flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as lines (`components.transformer.compared`, text), so that a phone can show them."""
    for key, item in value.items():
        name = f"{before}{key}"
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{name}.")
        else:
            yield name, _shown(item)


def _shown(item: Any) -> str:
    if isinstance(item, bool) or item is None:
        return {True: "yes", False: "no", None: "-"}[item]
    if isinstance(item, float):
        return f"{item:.6g}"
    if isinstance(item, (list, tuple)) and all(isinstance(each, str) for each in item):
        text = "\n".join(item)
    else:
        text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
    return (
        text
        if len(text) <= MOST_TEXT
        else f"{text[:MOST_TEXT]} ... ({len(text) - MOST_TEXT} characters more)"
    )


def _candidate(
    number: int,
    candidate: Mapping[str, Any],
    document: Mapping[str, Any],
    footage: Mapping[str, Any] | None,
    options: str,
) -> dict[str, Any]:
    verdicts = [verdict for verdict in document["verdicts"] if verdict["candidate"] == candidate["label"]]
    verdicts.sort(key=_place)
    counts = count(verdicts)
    state = next((state for state in ("failed", "inconclusive", "passed") if counts[state]), "nothing")
    found = causes(verdicts)
    faults = _in_order(_faults(verdicts, options), found)
    for place, fault in enumerate(faults, start=1):
        fault["id"] = f"fault-{number}-{place}"
        fault["above"] = None
    shown = {_key(fault): fault for fault in faults[:MOST_FAULTS]}
    return {
        **candidate,
        "number": number,
        "state": state,
        "said": _STATES[state],
        "counts": counts,
        "seconds": sum(float(verdict["seconds"]) for verdict in verdicts),
        "causes": [_cause(cause, shown) for cause in found[:MOST_CAUSES] if _key_of(cause) in shown],
        "of_causes": len(found),
        "settled": found[0] if found else None,
        "faults": faults[:MOST_FAULTS],
        "more_faults": max(0, len(faults) - MOST_FAULTS),
        "configuration": [each for fault in faults for each in _configuration(fault)],
        "verdicts": verdicts,
        "unjudged": {outcome: _by_reason(verdicts, outcome) for outcome in ("inconclusive", "skipped")},
        "footage": footage,
        "figures": list(figures(number, verdicts, footage)),
    }


def _place(verdict: Mapping[str, Any]) -> int:
    parts = str(verdict["id"]).split("::")
    section = parts[1] if len(parts) > 2 and parts[0].endswith("genmodel") else ""
    return _SECTIONS.index(section) if section in _SECTIONS else len(_SECTIONS)


def _faults(verdicts: Sequence[Mapping[str, Any]], options: str) -> list[dict[str, Any]]:
    """One entry for a code in a component, each with every place at which it was found."""
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for verdict in verdicts:
        for finding in verdict["findings"]:
            key = (finding["code"], finding["component"])
            fault = groups.setdefault(
                key,
                {
                    **{name: finding[name] for name in ("code", "title", "component")},
                    "severity": finding["severity"],
                    "anchor": anchor(finding["code"]),
                    "found_by": {},
                    "findings": [],
                },
            )
            fault["severity"] = min(fault["severity"], finding["severity"], key=SEVERITIES.index)
            fault["found_by"].setdefault(verdict["invariant"], verdict["id"])
            if not any(_alike(finding, other) for other in fault["findings"]):
                fault["findings"].append(finding)
    faults = list(groups.values())
    for fault in faults:
        fault["more"] = max(0, len(fault["findings"]) - MOST_PLACES)
        fault["findings"] = fault["findings"][:MOST_PLACES]
        id_ = str(next(iter(fault["found_by"].values())))
        fault["replay"] = replay_of({"verdicts": verdicts, "command": {"options": options}}, id_)
    return faults


def _in_order(faults: list[dict[str, Any]], found: Sequence[Cause]) -> list[dict[str, Any]]:
    """Each cause and what it explains, in their order, then the notes."""
    places: dict[tuple[str, str | None], int] = {}
    for cause in found:
        for key in (_key_of(cause), *((one.code, one.component) for one in cause.explains)):
            places.setdefault(key, len(places))

    def weight(fault: Mapping[str, Any]) -> tuple[int, int]:
        return places.get(_key(fault), len(places)), SEVERITIES.index(fault["severity"])

    return sorted(faults, key=weight)


def _key(fault: Mapping[str, Any]) -> tuple[str, str | None]:
    return fault["code"], fault["component"]


def _key_of(cause: Cause) -> tuple[str, str | None]:
    return cause.code, cause.component


def _cause(cause: Cause, shown: Mapping[tuple[str, str | None], dict[str, Any]]) -> dict[str, Any]:
    """A cause beside the fault that leads, and where on the page stands what it explains."""
    reasons: dict[str, dict[str, Any]] = {}
    for one in cause.explains:
        other = shown.get((one.code, one.component))
        entry = {"code": one.code, "title": one.title, "id": other["id"] if other else None}
        reasons.setdefault(one.why, {}).setdefault(one.code, entry)
    blocked: dict[str, dict[str, None]] = {}
    for entry_ in cause.unjudged:
        blocked.setdefault(entry_.why, {})[entry_.invariant] = None
    fault = shown[_key_of(cause)]
    fault["above"] = next((finding for finding in fault["findings"] if _alike(finding, cause.finding)), None)
    return {
        "fault": fault,
        "finding": cause.finding,
        "confidence": cause.confidence.value,
        "conclusion": cause.conclusion,
        "explains": [(why, list(entries.values())) for why, entries in reasons.items()],
        "unjudged": [(why, list(names)) for why, names in blocked.items()],
    }


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one["location"], one["message"]) == (other["location"], other["message"])


def _configuration(fault: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for finding in fault["findings"]:
        if re.match(r"[^:]+\.json:.", str(finding["location"] or "")):
            yield finding


def _by_reason(verdicts: Sequence[Mapping[str, Any]], outcome: str) -> list[tuple[str, list[str]]]:
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict["outcome"] == outcome:
            reasons.setdefault(str(verdict["reason"]), []).append(str(verdict["id"]).rpartition("::")[2])
    return list(reasons.items())


def _rule(code: str, candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rule's own text; of a code that is not known here (a user's own, an older version's) its title alone."""
    if rule := RULES.get(code):
        links = [address for address in rule.seen_in if address.startswith(("https://", "http://"))]
        return {
            "code": code,
            "anchor": anchor(code),
            "title": rule.summary,
            "meaning": rule.meaning,
            "action": rule.action,
            "links": links,
        }
    title = next(fault["title"] for each in candidates for fault in each["faults"] if fault["code"] == code)
    return {
        "code": code,
        "anchor": anchor(code),
        "title": title,
        "meaning": None,
        "action": None,
        "links": [],
    }
