"""Probes that users choose and nobody had: an empty prompt, a single frame, few steps. The model is healthy."""

from __future__ import annotations

import pytest

from pytest_genmodel.invariants.liveness import OTHER_PROMPT
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return tiny.materialise("wan2.1-i2v", tmp_path_factory.mktemp("wan"))


@pytest.mark.parametrize("prompt", ["", OTHER_PROMPT])
def test_prompt_that_says_nothing_or_what_the_other_says(judged, wan, prompt):
    verdict = judged("conditions_matter", wan, prompt=prompt, frames=1)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert set(verdict.measurements["effects"]) == {"image", "prompt", "negative prompt", "guidance scale"}


def test_empty_prompt_hides_no_tensor_of_the_text_encoder(judged, wan):
    verdict = judged("tensors_matter", wan, prompt="", frames=1)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_guidance_that_does_nothing_is_found_under_an_empty_prompt(judged, healthy, monkeypatch):
    from pytest_genmodel.pipelines.families.cogvideox import CogVideoX

    usual = CogVideoX.call_arguments
    monkeypatch.setattr(
        CogVideoX, "call_arguments", lambda self, *given: {**usual(self, *given), "guidance_scale": 6.0}
    )

    findings = judged("conditions_matter", healthy, prompt="").findings

    assert [(f.code, f.location) for f in findings] == [("GM910", "guidance scale")]


def test_second_row_of_an_amplifying_sampler_is_rounding(judged, tmp_path):
    folder = tiny.materialise("svd", tmp_path)

    verdict = judged("reproducible", folder, steps=1, frames=2)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
