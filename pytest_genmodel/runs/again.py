"""A saved run judged again under another policy: strictness, allowances, tolerances; no model is loaded.

What was kept decides; where it does not tell, the verdict is inconclusive and says so.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pytest_genmodel.diagnosis.allowance import Allowance, as_found, changes
from pytest_genmodel.diagnosis.limit import KEY, PARAMETER
from pytest_genmodel.diagnosis.rules import RULES, failing
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.reports.report import COMPLETE, Report
from pytest_genmodel.runs.saved import SavedRun, key
from pytest_genmodel.runs.tolerances import limit_of, passes
from pytest_genmodel.tensors.tolerance import Tolerance

_FOLLOWS = re.compile(r"GM9[56]\d")
"""What is found in the pursuit of a sample that differs: the first divergence, and which part carries it."""
_PURSUITS = ("first_divergence", "swap_bisection")
"""Claims that find those of themselves."""


@dataclass(frozen=True)
class NewPolicy:
    """How to judge again; None: as the run did.

    `allow` is added to what the run allowed, or stands in its place with `forget_allowed`. `tolerances` are limits
    between samples, by the name of the invariant; under the name "" for all others.
    """

    strict: bool | None = None
    allow: Sequence[Allowance] = ()
    forget_allowed: bool = False
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)


def judge_again(run: SavedRun, policy: NewPolicy) -> Report:
    """The run's report as it would be under `policy`.

    Raises:
        BadInputError: a tolerance is given for what the run kept no comparison of, or what was kept is damaged.
    """
    given = run.report
    _check(run, policy)
    strict = bool(run.policy.get("strict")) if policy.strict is None else policy.strict
    try:
        verdicts = [_verdict(run, verdict, policy, strict) for verdict in given["verdicts"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{run.path}: is damaged ({type(error).__name__}: {error})") from None
    report = Report(
        candidates=deepcopy(given["candidates"]),
        reference=deepcopy(given.get("reference")),
        verdicts=verdicts,
        environment=dict(given.get("environment", {})),
        command=dict(given.get("command", {})),
        samples={str(one["candidate"]): dict(one) for one in given.get("samples", ())},
        audit=given.get("audit"),
        allow=tuple(policy.allow),
    )
    report.exit_status = _exit_status(given, report)
    return report


def _exit_status(given: Mapping[str, Any], report: Report) -> int:
    """1 where a verdict is red or nothing was judged; what was wrong with the run beside its verdicts stays."""
    status = int(given.get("exit_status", 0))
    if status not in COMPLETE:
        return status
    was_red = any(verdict["outcome"] in ("failed", "inconclusive") for verdict in given["verdicts"])
    is_red = any(verdict["outcome"] in ("failed", "inconclusive") for verdict in report.verdicts)
    return int(is_red or report.checked_nothing or (status == 1 and not was_red))


def _check(run: SavedRun, policy: NewPolicy) -> None:
    known = {name.rpartition(" ")[2] for name, several in run.comparisons.items() if several}
    for name in policy.tolerances:
        if name and name not in known:
            raise BadInputError(
                f"{run.path}: no sample was compared by {name!r}, so that no tolerance applies to it "
                f"(compared: {', '.join(sorted(known)) or 'none'})"
            )
    if policy.tolerances and not known:
        raise BadInputError(f"{run.path}: no samples were compared in it, so that no tolerance applies")


def _verdict(run: SavedRun, given: Mapping[str, Any], policy: NewPolicy, strict: bool) -> dict[str, Any]:
    verdict = deepcopy(dict(given))
    invariant = str(verdict["invariant"])
    findings = [as_found(finding) if policy.forget_allowed else finding for finding in verdict["findings"]]
    unknown: list[str] = []
    tolerance = policy.tolerances.get(invariant, policy.tolerances.get(""))
    compared = run.comparisons.get(key(verdict), ())
    if tolerance is not None and compared:
        findings, unknown = _under(run, verdict, findings, compared, tolerance)
        verdict["parameters"] = {**verdict["parameters"], PARAMETER: tolerance.spelled()}
    digest = next(
        (one.get("digest") for one in run.report["candidates"] if one["label"] == verdict["candidate"]), None
    )
    verdict["findings"] = [_allowed(finding, policy.allow, digest) for finding in findings]
    was = verdict["outcome"]
    if any(finding["severity"] in failing(strict) for finding in verdict["findings"]):
        verdict["outcome"] = "failed"
    elif unknown:
        verdict["outcome"] = "inconclusive"
        verdict["reason"] = "; ".join(unknown)
    elif was == "failed":
        verdict["outcome"] = "inconclusive" if verdict["reason"] else "passed"
    return verdict


def _under(
    run: SavedRun,
    verdict: Mapping[str, Any],
    findings: Sequence[dict[str, Any]],
    compared: Sequence[Mapping[str, Any]],
    tolerance: Tolerance,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The findings under another tolerance, and what cannot be said under it."""
    kept, unknown, differs = list(findings), [], False
    for one in compared:
        said = next(
            (finding for finding in kept if finding["evidence"].get("comparison") == one["name"]), None
        )
        first, undecided = _first_beyond(run, one, tolerance)
        if first is not None:
            differs = True
            finding = _found(one, first, tolerance, said)
            if said is None:
                kept.append(finding)
            else:
                kept[kept.index(said)] = finding
            continue
        if said is not None:
            kept.remove(said)
            if one["ends"]:
                unknown.append(
                    f"under {tolerance.spelled()} the samples of {one['name']!r} agree, and what is judged only "
                    "then was not run: run it again"
                )
        if undecided:
            differs = True
            unknown.append(
                f"what was kept of {one['name']!r} does not tell whether {undecided} is within "
                f"{tolerance.spelled()}: run it again, or give an absolute limit"
            )
    if not differs and verdict["invariant"] not in _PURSUITS:
        kept = [finding for finding in kept if not _FOLLOWS.fullmatch(finding["code"])]
    return kept, unknown


def _first_beyond(
    run: SavedRun, compared: Mapping[str, Any], tolerance: Tolerance
) -> tuple[Mapping[str, Any] | None, str | None]:
    """The first place beyond the tolerance; else the name of one that cannot be judged."""
    undecided = None
    for name, (ours, theirs) in compared["shapes"].items():
        if ours != theirs:
            return {"place": name, "figures": {"problem": "shape"}}, None
    for place in compared["places"]:
        within = passes(place, tolerance, run)
        if within is False:
            return place, None
        if within is None and undecided is None:
            undecided = str(place["place"])
    return None, undecided


def _found(
    compared: Mapping[str, Any],
    place: Mapping[str, Any],
    tolerance: Tolerance,
    said: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The finding of a place beyond the tolerance: the run's own, with what is new, or one like it."""
    number = place["figures"].get("max_abs")
    far = f"max |a-b| {number:.3g}" if isinstance(number, float) else str(place["figures"].get("problem"))
    what = f"the samples of {compared['name']!r} differ at {place['place']}"
    message = f"judged again, {what}: {far} (limit: {tolerance})"
    evidence = {KEY: limit_of(place, compared["places"], tolerance), "comparison": compared["name"]}
    if said is not None:
        changed = {
            "message": message,
            "location": place["place"],
            "evidence": {**said["evidence"], **evidence},
        }
        return {**said, **changed}
    rule = RULES[str(compared["code"])]
    return {
        "code": rule.code,
        "title": rule.summary,
        "severity": rule.severity.value,
        "component": None,
        "location": place["place"],
        "message": message,
        "cause": None,
        "action": rule.action,
        "evidence": evidence,
        "allowed": None,
    }


def _allowed(finding: dict[str, Any], allow: Sequence[Allowance], digest: str | None) -> dict[str, Any]:
    """A note of a finding that is allowed, and why an allowance does not hold; what was a note stays one."""
    return (
        finding if finding["severity"] == "note" else {**finding, **changes(finding, allow, lambda: digest)}
    )
