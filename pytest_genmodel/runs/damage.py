"""What is wrong with the content of a `run.json`: whoever reads one on finds every field there, and of its kind.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.reports.counts import OUTCOMES

SEVERITIES = tuple(severity.value for severity in Severity)
_Kind = type | tuple[type, ...]
_NOTHING = type(None)
_TEXT, _NUMBER = (str, _NOTHING), (int, float)
_FINDING: Mapping[str, _Kind] = {
    **dict.fromkeys(("code", "title", "severity", "message", "action"), str),
    **dict.fromkeys(("component", "location", "cause"), _TEXT),
    "evidence": dict,
}
_VERDICT: Mapping[str, _Kind] = {
    **dict.fromkeys(("id", "candidate", "invariant", "outcome"), str),
    "reason": _TEXT,
    "seconds": _NUMBER,
    "samples_computed": int,
    "parameters": dict,
    "measurements": dict,
    "findings": list,
}
_REPORT: Mapping[str, _Kind] = {
    "verdicts": list,
    "candidates": list,
    "environment": dict,
    "command": dict,
    "exit_status": int,
}
_COMPARED: Mapping[str, _Kind] = {"name": str, "code": str, "ends": bool, "shapes": dict, "places": list}
_PLACE: Mapping[str, _Kind] = {"place": str, "shape": list, "figures": dict, "values": _TEXT}


def damage(report: Mapping[str, Any], comparisons: Mapping[str, Any]) -> str | None:
    """The first field that is not there, or not what it has to be, by its place; None where all are."""
    return next(_all(report, comparisons), None)


def _all(report: Mapping[str, Any], comparisons: Mapping[str, Any]) -> Iterator[str]:
    yield from _fields("report", report, _REPORT)
    for place, candidate in _items("candidates", report["candidates"]):
        yield from _fields(place, candidate, {"label": str, "spec": str})
    for place, verdict in _items("verdicts", report["verdicts"]):
        yield from _fields(place, verdict, _VERDICT)
        if verdict["outcome"] not in OUTCOMES:
            yield f"{place}.outcome is none"
        for inner, finding in _items(f"{place}.findings", verdict["findings"]):
            yield from _fields(inner, finding, _FINDING)
            if finding["severity"] not in SEVERITIES:
                yield f"{inner}.severity is none"
            if finding.get("allowed") is not None:
                yield from _fields(f"{inner}.allowed", finding["allowed"], {"reason": str, "severity": str})
    for name, several in comparisons.items():
        if not isinstance(several, list):
            yield f"comparisons[{name!r}] is no list"
        for place, one in _items(f"comparisons[{name!r}]", several):
            yield from _fields(place, one, _COMPARED)
            for inner, at in _items(f"{place}.places", one["places"]):
                yield from _fields(inner, at, _PLACE)


def _items(name: str, values: list[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}[{number}]", value) for number, value in enumerate(values))


def _fields(place: str, value: Any, kinds: Mapping[str, _Kind]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place} is no object"
        return
    for name, kind in kinds.items():
        if name not in value:
            yield f"{place} has no {name}"
        elif not isinstance(value[name], kind):
            yield f"{place}.{name} is {type(value[name]).__name__}"
