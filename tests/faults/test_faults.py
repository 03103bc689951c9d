"""Every fault against the claim that must see it, every healthy model against all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import RULES
from pytest_genmodel.faults.copy import DoesNotApplyError
from pytest_genmodel.faults.misses import MISSES
from pytest_genmodel.faults.registry import KINDS, LAYERS, Place, all_faults
from pytest_genmodel.invariants.registry import all_invariants
from pytest_genmodel.invariants.verdict import Outcome, Verdict

FAULTS = all_faults()
CLAIMS = ("coverage", "sound_weights", "same_weights")
CASES = [
    (name, model)
    for name, fault in FAULTS.items()
    for model in (
        (fault.model, "cogvideox-i2v-trained")
        if (fault.model, fault.kind) == ("cogvideox-i2v", "checkpoint") and name not in MISSES
        else (fault.model,)
    )
]


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def loud(verdict: Verdict) -> list[Finding]:
    return [finding for finding in verdict.findings if finding.severity and finding.severity.value != "note"]


def caught(verdict: Verdict, code: str | None, severity: str, place: Place) -> bool:
    """Whether the first finding of its weight is the fault's own, in its place."""
    findings = [f for f in verdict.findings if f.code == code] if severity == "note" else loud(verdict)
    return bool(findings) and (
        (findings[0].code, findings[0].severity and findings[0].severity.value) == (code, severity)
        and place.holds(findings[0].component, findings[0].location)
    )


@pytest.mark.parametrize(("name", "model_name"), CASES, ids=["-".join(case) for case in CASES])
def test_fault_is_caught_in_its_place_or_is_an_honest_miss(injected, model, name, model_name):
    fault = FAULTS[name]
    before = digest(model(model_name))
    if fault.invariant not in all_invariants():
        assert name in MISSES
        return

    try:
        verdict, place = injected(fault, model_name)
    except DoesNotApplyError:
        assert model_name != fault.model
        return

    found = [(f.code, f.component, f.location) for f in verdict.findings]
    is_caught = caught(verdict, fault.code, fault.severity, place)
    assert is_caught is (name not in MISSES), (fault.code, place, found, verdict.reason)
    if is_caught:
        assert verdict.outcome is (Outcome.FAILED if fault.severity == "error" else Outcome.PASSED)
    assert digest(model(model_name)) == before


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("name", ["cogvideox-i2v", "cogvideox-i2v-trained", "alpha_lost"])
@pytest.mark.parametrize("level", ["static", "quick"])
def test_healthy_models_are_silent(judged, model, subjects, claim, name, level):
    reference = model("cogvideox-i2v" if name in FAULTS else name)
    candidate = subjects(FAULTS[name], "cogvideox-i2v") if name in FAULTS else reference

    verdict = judged(claim, candidate, reference, level=level)

    assert (verdict.outcome, loud(verdict)) == (Outcome.PASSED, [])


@pytest.mark.parametrize("name", FAULTS)
def test_fault_says_what_it_imitates(name):
    fault = FAULTS[name]

    assert fault.code in RULES or name in MISSES
    assert fault.layer in LAYERS
    assert fault.kind in KINDS
    assert len(fault.summary) > 20
    assert fault.seen_in is None or fault.seen_in.startswith("https://github.com/")


def test_every_miss_is_a_fault_with_a_reason():
    assert set(MISSES) <= set(FAULTS)
    assert all(len(reason) > 20 for reason in MISSES.values())


def test_enough_real_faults_are_covered():
    assert len({entry for fault in FAULTS.values() for entry in fault.entries}) >= 100
