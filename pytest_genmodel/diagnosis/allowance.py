"""Allowances: what a rule finds, and is there on purpose; each with the reason for it.

    GM412: the new schedule is on purpose
    GM301@vae: its decoder was trained on
    GM301@transformer:proj_out.*: the last layer was trained on
    GM401@scheduler:scheduler_config.json:prediction_type: the model was trained to predict velocity
    GM301@vae#sha256:0f343b0931ab: this VAE and no other

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import RULES, Severity, spelled, unknown
from pytest_genmodel.errors import BadInputError

ALLOW = "allow"
"""The parameter of every marker that holds its allowances."""
LEAST_DIGITS = 12
"""Hex digits of a digest that an allowance gives at least: 48 bits, which no two checkpoints share by accident."""
_SPELLING = re.compile(
    r"(?P<code>[^\s@#:]+)"
    r"(?:@(?P<component>[^@#:]*)(?::(?P<location>.*?))?)?"
    rf"(?:#sha256:(?P<digest>[0-9a-fA-F]{{{LEAST_DIGITS},64}}))?"
)
_REASON = re.compile(r":(?:\s+|$)")
_CANNOT_JUDGE = re.compile(r"GM0\d\d")
_OURS = re.compile(r"GM\d*")
_FORM = "CODE[@COMPONENT[:LOCATION]][#sha256:DIGITS]: REASON, as 'GM412: the new schedule is on purpose'"


@dataclass(frozen=True)
class Allowance:
    """A code that may be found, with the reason.

    `component` and `location` narrow it, as patterns in which `*` stands for anything (dots too); None is any place.
    `digest` are the first hex digits of the sha256 of the one candidate that it holds for. `by` says where it was
    given: `option`, `ini` or `marker`.
    """

    code: str
    reason: str
    component: str | None = None
    location: str | None = None
    digest: str | None = None
    by: str = "option"

    @property
    def target(self) -> str:
        """What is allowed, as it is spelled, without the reason."""
        place = "" if self.component is None else f"@{self.component}"
        place += "" if self.location is None else f":{self.location}"
        return f"{self.code}{place}{f'#sha256:{self.digest}' if self.digest else ''}"

    def __str__(self) -> str:
        """The whole allowance as it is spelled."""
        return f"{self.target}: {self.reason}"

    def covers(self, finding: Mapping[str, Any]) -> bool:
        """Whether a finding (as the report spells it) lies wholly at the place that is allowed.

        One about several tensors does if every one of them matches, and does not if it names only a part of them.
        """
        if not self.touches(finding):
            return False
        matching, total = self.share(finding)
        return self.location is None or matching == total

    def touches(self, finding: Mapping[str, Any]) -> bool:
        """Whether at least a part of a finding (as the report spells it) lies at the place that is allowed."""
        return (
            finding["code"] == self.code
            and (self.component is None or fnmatchcase(finding["component"] or "", self.component))
            and self.share(finding)[0] > 0
        )

    def share(self, finding: Mapping[str, Any]) -> tuple[int, int]:
        """How many of the places of a finding match `location`, of how many."""
        evidence = finding["evidence"]
        named = evidence.get("tensors") or evidence.get("places")
        names = named if isinstance(named, (list, tuple)) else [finding["location"] or ""]
        count = evidence.get("count")
        total = max(len(names), count if isinstance(count, int) else 0)
        return sum(fnmatchcase(str(name), self.location or "*") for name in names), total

    def note(self, message: str, severity: str) -> dict[str, Any]:
        """What is other in a finding of this message and severity where it is allowed; `as_found` takes it back."""
        return {
            "severity": Severity.NOTE.value,
            "message": f"{message}{_because_allowed(self.reason)}",
            "allowed": {
                "allowance": self.target,
                "reason": self.reason,
                "by": self.by,
                "severity": severity,
            },
        }

    def holds_for(self, digest: str | None) -> bool:
        """Whether it holds for the candidate of this digest; None where that is not known."""
        return self.digest is None or (digest is not None and digest.startswith(self.digest))


class Allowances(tuple[Allowance, ...]):
    """Several allowances; as text they read as they are spelled."""

    def __str__(self) -> str:
        return "; ".join(map(str, self))


def parse(text: str, by: str = "option") -> Allowance:
    """Read an allowance as it is spelled above.

    A code that begins with GM must be one of ours; whether another one exists is for `check_known` to say, when every
    invariant of the project is known.

    Raises:
        BadInputError: no reason, no such form, no such code, or one that cannot be allowed; begins with `text`, and
            says what is accepted.
    """
    target, reason = (*_REASON.split(text.strip(), maxsplit=1), "")[:2]
    match = _SPELLING.fullmatch(target)
    if "#" in target and (match is None or match["digest"] is None):
        raise BadInputError(
            f"{text}: expected #sha256: and {LEAST_DIGITS} to 64 hex digits of the candidate's digest at its end"
        )
    if match is None and not reason and _SPELLING.fullmatch(target.partition(":")[0]):
        code, _, why = target.partition(":")
        raise BadInputError(f"{text}: expected a space before the reason, as '{code}: {why}'")
    if match is None:
        raise BadInputError(f"{text}: expected {_FORM}")
    code = spelled(match["code"])
    if _OURS.match(code) and code not in RULES:
        raise BadInputError(f"{text}: {unknown(code)}")
    if _CANNOT_JUDGE.fullmatch(code):
        raise BadInputError(
            f"{text}: expected a code that can be allowed: GM0xx stands for what could not be judged, or for an "
            "invariant of your own without a code"
        )
    if not reason.strip():
        raise BadInputError(
            f"{text}: expected a reason (an allowance carries a reason), as '{target}: why it is so on purpose'"
        )
    digest = match["digest"].lower() if match["digest"] else None
    return Allowance(code, " ".join(reason.split()), match["component"], match["location"], digest, by)


def parse_all(given: object, by: str = "marker") -> Allowances:
    """Read what a marker gives: a text, several, or a mapping of what is allowed to the reason.

    Raises:
        BadInputError: it is none of these, or as `parse`.
    """
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping) and all(isinstance(reason, str) for reason in given.values()):
        given = [f"{target}: {reason}" for target, reason in given.items()]
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, (str, Allowance)) for each in given):
        raise BadInputError(f"{given!r}: expected {{'CODE': 'reason'}}, or a list of texts {_FORM}")
    return Allowances(each if isinstance(each, Allowance) else parse(each, by) for each in given)


def check_known(allowances: Iterable[Allowance]) -> None:
    """Refuse codes that no rule has, once every rule of the project is registered.

    Raises:
        BadInputError: names the first such code and the nearest known one.
    """
    for allowance in allowances:
        if allowance.code not in RULES:
            raise BadInputError(f"{allowance}: {unknown(allowance.code)}")


def apply(
    findings: Iterable[Finding], allowances: Sequence[Allowance], digest: Callable[[], str | None]
) -> Iterator[Finding]:
    """Make notes of the findings that are allowed; of the others say why an allowance does not hold.

    Args:
        findings: in their order, which is kept.
        allowances: the first that holds counts.
        digest: gives the candidate's digest (None: not known); called where an allowance is tied to one.
    """
    if not allowances:
        yield from findings
        return
    for finding in findings:
        yield replace(finding, **changes(finding.to_json(), allowances, digest))


def changes(
    finding: Mapping[str, Any], allowances: Sequence[Allowance], digest: Callable[[], str | None]
) -> dict[str, Any]:
    """What is other in a finding (as the report spells it) for what is allowed: all of it a note, or its action."""
    touching = [allowance for allowance in allowances if allowance.touches(finding)]
    covering = [allowance for allowance in touching if allowance.covers(finding)]
    known = digest() if any(allowance.digest for allowance in covering) else None
    holding = next((allowance for allowance in covering if allowance.holds_for(known)), None)
    if holding is not None:
        return holding.note(finding["message"], finding["severity"])
    if not touching:
        return {}
    why = _other_candidate(covering[0], known) if covering else _not_all(touching[0], finding)
    return {"action": f"{finding['action']} {why}"}


def as_found(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding (as the report spells it) as it was before it was allowed."""
    allowed = finding.get("allowed")
    if not allowed:
        return dict(finding)
    message = str(finding["message"]).removesuffix(_because_allowed(allowed["reason"]))
    return {**finding, "message": message, "severity": allowed["severity"], "allowed": None}


def _because_allowed(reason: str) -> str:
    return f" (allowed: {reason})"


def _other_candidate(allowance: Allowance, digest: str | None) -> str:
    said = (
        f"this one is sha256:{digest[:LEAST_DIGITS]}" if digest else "the digest of this one could not be had"
    )
    return (
        f"The allowance {allowance.target} holds for another candidate ({said}): look at the difference anew, and "
        "allow it with this digest if it is meant."
    )


def _not_all(allowance: Allowance, record: Mapping[str, Any]) -> str:
    matching, total = allowance.share(record)
    return f"The allowance {allowance.target} covers {matching} of the {total} places, and so does not hold."


def unneeded(allowances: Iterable[Allowance], findings: Iterable[Mapping[str, Any]]) -> list[Allowance]:
    """The allowances for which nothing was found among `findings`, as the report spells them."""
    records = list(findings)
    return [allowance for allowance in allowances if not any(allowance.touches(record) for record in records)]
