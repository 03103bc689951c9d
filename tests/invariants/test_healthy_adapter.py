"""A healthy LoRA is judged by every claim of the suite without a finding above a note."""

from __future__ import annotations

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.suite import SUITE
from pytest_genmodel.training.lora import train_lora

CLAIMS = [claim for claims in SUITE.values() for claim in claims]
FROM_A_WHOLE_MODEL = {
    *("zero_lr_identity", "learning_moves", "resume_is_exact", "training_conditions"),
    "save_load_round_trip",
    "padding_is_ignored",  # which this family reads by design
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings

    base = tiny.materialise("cogvideox-i2v-trained", tmp_path_factory.mktemp("base"))
    adapter = train_lora(base, lr=1e-3, steps=2, seed=0, output=tmp_path_factory.mktemp("adapter"))
    opened = GenmodelSession(Settings(candidates=(str(adapter),), reference=str(base), expect="adapter"))
    yield opened
    opened.close()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claim_holds_or_does_not_apply(session, claim):
    verdict = session.judge(0, claim.invariant, dict(claim.parameters))

    expected = Outcome.SKIPPED if claim.invariant in FROM_A_WHOLE_MODEL else Outcome.PASSED
    assert (verdict.outcome, verdict.findings) == (expected, ()), verdict.reason
