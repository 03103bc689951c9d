"""Each registered fault gives its code, in its place, and a healthy model gives nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_genmodel.diagnosis.rules import RULES
from pytest_genmodel.faults.registry import Fault, all_faults
from pytest_genmodel.invariants.verdict import Outcome, Verdict
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.training.lora import train_lora

FAULTS = all_faults()
CLAIMS = ("coverage", "sound_weights", "same_weights")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline that was really trained; read only."""
    return tiny.materialise("cogvideox-i2v-trained", tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def adapter(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with every factor moved, as diffusers saves it; read only."""
    return train_lora(healthy, lr=1e-2, steps=2, seed=0, output=tmp_path_factory.mktemp("adapter") / "lora")


@pytest.fixture
def subjects(healthy, trained, adapter) -> dict[str, Path]:
    return {"pipeline": healthy, "trained": trained, "adapter": adapter}


def loud(verdict: Verdict) -> list[str]:
    return [finding.code for finding in verdict.findings if finding.severity.value != "note"]


@pytest.fixture
def injected(judged, subjects, healthy, tmp_path):
    def inject(fault: Fault, subject: str) -> Verdict:
        folder = Path(shutil.copytree(subjects[subject], tmp_path / "faulty"))
        path = fault.inject(folder) or folder
        reference = healthy if subject == "adapter" else subjects[subject]
        return judged(
            fault.invariant,
            path,
            reference if fault.needs_reference else None,
            level="static",
            expect=fault.expect,
        )

    return inject


CASES = [
    (name, subject)
    for name, fault in FAULTS.items()
    for subject in (("pipeline", "trained") if fault.subject == "pipeline" else (fault.subject,))
]


@pytest.mark.parametrize(("name", "subject"), CASES, ids=["-".join(case) for case in CASES])
def test_fault_gives_its_code_and_no_other(injected, name, subject):
    fault = FAULTS[name]

    verdict = injected(fault, subject)

    found = [f for f in verdict.findings if f.code == fault.code or f.severity.value != "note"]
    assert [f.code for f in found] == [fault.code], verdict.reason
    [finding] = found
    assert (finding.component, finding.severity.value) == (fault.component, fault.severity)
    if fault.location is not None:
        assert finding.location == fault.location
    assert verdict.outcome is (Outcome.FAILED if fault.severity == "error" else Outcome.PASSED)


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("subject", ["pipeline", "trained", "adapter"])
@pytest.mark.parametrize("level", ["static", "quick"])
def test_healthy_models_are_silent(judged, subjects, healthy, claim, subject, level):
    reference = healthy if subject == "adapter" else subjects[subject]

    verdict = judged(claim, subjects[subject], reference, level=level)

    assert (verdict.outcome, loud(verdict)) == (Outcome.PASSED, [])


@pytest.mark.parametrize("name", FAULTS)
def test_fault_says_what_it_imitates(name):
    fault = FAULTS[name]

    assert fault.code in RULES
    assert len(fault.summary) > 20
    assert fault.seen_in is None or fault.seen_in.startswith("https://github.com/")
