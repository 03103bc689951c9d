"""Allowances: how they are spelled, what they cover, and when they do not hold."""

from __future__ import annotations

import pytest

from pytest_genmodel.diagnosis.allowance import Allowance, apply, check_known, parse, parse_all, unneeded
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.errors import BadInputError

DIGEST = "0f343b0931ab" + "c" * 52


def finding(code: str = "GM401", component: str | None = "scheduler", location: str | None = None) -> Finding:
    place = location or "scheduler_config.json:prediction_type"
    return Finding(code, "prediction_type is 'epsilon'", component, place, evidence={"candidate": "epsilon"})


def judged(found: Finding, *texts: str, digest: str | None = DIGEST) -> Finding:
    [one] = apply([found], [parse(text) for text in texts], lambda: digest)
    return one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GM412: why", Allowance("GM412", "why")),
        ("gm412:   so it\n is ", Allowance("GM412", "so it is")),
        ("GM301@vae: why: because", Allowance("GM301", "why: because", "vae")),
        ("GM301@transformer:proj_out.*: why", Allowance("GM301", "why", "transformer", "proj_out.*")),
        (
            "GM401@scheduler:scheduler_config.json:prediction_type: why",
            Allowance("GM401", "why", "scheduler", "scheduler_config.json:prediction_type"),
        ),
        ("GM920@*:frame 0: why", Allowance("GM920", "why", "*", "frame 0")),
        (f"GM301@vae#sha256:{DIGEST[:12].upper()}: why", Allowance("GM301", "why", "vae", None, DIGEST[:12])),
        (f"GM412#sha256:{DIGEST}: why", Allowance("GM412", "why", digest=DIGEST)),
        ("ACME001: why", Allowance("ACME001", "why")),
    ],
)
def test_spelling(text, expected):
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("GM412", "expected a reason (an allowance carries a reason), as 'GM412: why it is so on purpose'"),
        ("GM412:", "expected a reason"),
        ("GM301@vae:   ", "expected a reason (an allowance carries a reason), as 'GM301@vae: why"),
        ("GM301@vae:proj_out.weight", "expected a reason"),
        ("GM412:why", "expected a space before the reason, as 'GM412: why'"),
        ("GM421: why", "no rule has the code GM421; did you mean GM4"),
        ("GM4: why", "no rule has the code GM4"),
        ("GM010: why", "expected a code that can be allowed: GM0xx stands for"),
        ("GM412#sha256:0f34: why", "12 to 64 hex digits"),
        ("GM412#0f343b0931ab: why", "12 to 64 hex digits"),
        ("GM301@vae:conv#sha256:xyz: why", "12 to 64 hex digits"),
        (": why", "expected CODE[@COMPONENT[:LOCATION]]"),
        ("GM412 on purpose: why", "expected CODE[@COMPONENT[:LOCATION]]"),
        ("", "expected CODE[@COMPONENT[:LOCATION]]"),
    ],
)
def test_what_cannot_be_read_says_what_is_accepted(text, accepted):
    with pytest.raises(BadInputError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"{text}: ")
    assert accepted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_marker_takes_a_mapping_or_texts():
    assert parse_all({"GM412": "why"}) == (Allowance("GM412", "why", by="marker"),)
    assert parse_all(["GM412: why", "GM301@vae: so"])[1].component == "vae"
    assert str(parse_all("GM412: why")) == "GM412: why"


@pytest.mark.parametrize("given", [{"GM412"}, {"GM412": None}, 3, [3], {"GM412": ""}, "GM412"])
def test_marker_without_a_reason_is_refused(given):
    with pytest.raises(BadInputError, match="expected"):
        parse_all(given)


def test_code_that_no_rule_has_is_refused_once_all_are_known():
    check_known([parse("GM412: why")])
    with pytest.raises(BadInputError, match=r"no rule has the code GN412; did you mean GM412 or "):
        check_known([parse("GN412: why")])


@pytest.mark.parametrize(
    "text",
    [
        "GM401: meant",
        "GM401@scheduler: meant",
        "GM401@sched*: meant",
        "GM401@scheduler:scheduler_config.json:prediction_type: meant",
        "GM401@*:*:prediction_type: meant",
        f"GM401#sha256:{DIGEST[:12]}: meant",
    ],
)
def test_allowed_finding_is_a_note_that_carries_the_reason(text):
    allowed = judged(finding(), text)

    assert allowed.severity is Severity.NOTE
    assert allowed.message == "prediction_type is 'epsilon' (allowed: meant)"
    target = text.removesuffix(": meant")
    expected = {"allowance": target, "reason": "meant", "by": "option", "severity": "error"}
    assert allowed.to_json()["allowed"] == expected
    assert finding().to_json()["allowed"] is None


@pytest.mark.parametrize("text", ["GM402: why", "GM401@vae: why", "GM401@scheduler:*:beta_start: why"])
def test_other_code_component_or_place_changes_nothing(text):
    assert judged(finding(), text) == finding()


def test_finding_without_a_component_is_met_by_a_star_alone():
    frame = finding("GM920", None, "frame 0")
    assert judged(frame, "GM920@*:frame 0: why").severity is Severity.NOTE
    assert judged(frame, "GM920@vae: why") == frame


@pytest.mark.parametrize("digest", ["f" * 64, None])
def test_other_digest_does_not_hold_and_that_is_said(digest):
    text = f"GM401@scheduler#sha256:{DIGEST[:12]}: why"
    kept = judged(finding(), text, digest=digest)

    assert (kept.severity, kept.allowed) == (Severity.ERROR, None)
    assert kept.action.startswith(finding().action)
    assert f"GM401@scheduler#sha256:{DIGEST[:12]} holds for another candidate" in kept.action
    assert (f"sha256:{'f' * 12}" in kept.action) == (digest is not None)


def test_digest_is_asked_for_only_where_it_matters():
    def never():
        raise AssertionError("the digest reads every weight")

    allowances = [parse(f"GM301@vae#sha256:{DIGEST[:12]}: why"), parse("GM401: why")]
    [one] = apply([finding()], allowances, never)
    assert one.severity is Severity.NOTE


def test_any_allowance_that_holds_is_enough():
    allowed = judged(finding(), f"GM401#sha256:{'f' * 12}: stale", "GM401: meant")
    assert allowed.to_json()["allowed"]["reason"] == "meant"


def test_several_tensors_are_allowed_only_if_all_of_them_are():
    several = finding_of(
        "GM301", ["proj_out.weight", "proj_out.bias", "norm.weight"], "differ", component="vae"
    )

    assert judged(several, "GM301@vae:*: why").severity is Severity.NOTE
    kept = judged(several, "GM301@vae:proj_out.*: why")
    assert kept.severity is Severity.ERROR
    assert "GM301@vae:proj_out.* covers 2 of the 3 places" in kept.action


def test_names_that_are_left_out_are_not_allowed():
    """A finding lists 200 names at most: those behind may lie anywhere."""
    many = finding_of("GM301", [f"proj_out.{number}" for number in range(300)], "differ", component="vae")

    kept = judged(many, "GM301@vae:proj_out.*: why")
    assert kept.severity is Severity.ERROR
    assert "covers 200 of the 300 places" in kept.action
    assert judged(many, "GM301@vae: why").severity is Severity.NOTE


def test_allowance_that_nothing_touches_is_not_needed():
    records = [judged(finding(), "GM401: why").to_json()]
    allowances = [parse("GM401@scheduler: a"), parse("GM301: b"), parse(f"GM401#sha256:{'f' * 12}: c")]
    assert unneeded(allowances, records) == [allowances[1]]
