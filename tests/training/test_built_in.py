"""The built-in trainers train on a clip of the run's size, whoever says it."""

from __future__ import annotations

import shutil

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.probing import PROBE_FILE, QUICK_FRAMES, ProbeWishes


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """A tiny LTX pipeline that does not say its size, as one that a trainer has saved."""
    spoken = tiny.materialise("ltx-i2v", tmp_path_factory.mktemp("ltx"))
    copy = shutil.copytree(spoken, tmp_path_factory.mktemp("silent") / "ltx")
    (copy / PROBE_FILE).unlink()
    return copy


@pytest.mark.parametrize("claim", ["learning_moves", "training_conditions"])
def test_reference_says_the_size_where_the_candidate_does_not(judged, silent, claim):
    verdict = judged(claim, silent, "tiny:ltx-i2v", {"trainer": "lora"})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)


def test_user_says_the_size_where_there_is_no_reference(judged, silent, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pytest_genmodel.training.lora.take_steps", lambda *_, wishes, **__: asked.append(wishes)
    )

    judged(
        "learning_moves",
        silent,
        parameters={"trainer": "lora"},
        size=(64, 32),
        frames=17,
        prompt="a ball",
        seed=3,
    )

    assert asked == [ProbeWishes("a ball", seed=3, frames=QUICK_FRAMES, size=(64, 32))]
