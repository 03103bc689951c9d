"""first_divergence: on request, after a comparison that failed, and what the expectation makes of it."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.audit.subject import fine_tuned, write_adapter
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants import divergence
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TO_Q, TRANSFORMER, VAE, edit_json, edit_tensors
from tests.inner import report, run

__all__ = ["report", "run"]
LAYER = TO_Q.removesuffix(".weight")


def errors(verdict):
    return [(f.code, f.component, f.location) for f in verdict.findings if f.severity is Severity.ERROR]


def double(name):
    def change(tensors):
        tensors[name].mul_(2)

    return change


def test_equal_content_is_proven_and_not_traced(judged, healthy, copy, monkeypatch):
    monkeypatch.setattr(divergence, "find_divergence", None)

    verdict = judged("first_divergence", copy, healthy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert "equal content" in verdict.measurements["proven"]


def test_damage_is_named_with_its_place(judged, healthy, copy):
    edit_tensors(copy / VAE, double("decoder.norm_out.norm_layer.weight"))

    verdict = judged("first_divergence", copy, healthy, expect="identical")

    assert verdict.outcome is Outcome.FAILED
    assert errors(verdict) == [("GM950", "vae", "decoder.norm_out.norm_layer")]


def test_search_goes_on_where_the_steps_do_not_show_it(judged, healthy, copy, monkeypatch):
    """A scheduler may take several steps for one that the pipeline counts."""
    edit_tensors(copy / VAE, double("decoder.norm_out.norm_layer.weight"))
    monkeypatch.setattr(divergence, "first_step_apart", lambda *_: 1)

    verdict = judged("first_divergence", copy, healthy, parameters={"steps": 2})

    assert errors(verdict) == [("GM950", "vae", "decoder.norm_out.norm_layer")]


def test_curves_are_measured(judged, healthy, copy):
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="epsilon")

    verdict = judged("first_divergence", copy, healthy, parameters={"steps": 3})

    curve = verdict.measurements["divergence"]
    assert errors(verdict) == [("GM951", "scheduler", "scheduler:step")]
    assert (len(curve["latents"]), len(curve["cosine"]), len(curve["psnr"])) == (3, 3, 9)
    assert verdict.measurements["steps"] == 3


@pytest.mark.parametrize(
    ("expect", "outcome"), [("finetuned", "passed"), (None, "passed"), ("identical", "failed")]
)
def test_denoiser_may_differ_where_the_expectation_says_so(judged, healthy, copy, expect, outcome):
    edit_tensors(copy / TRANSFORMER, double(TO_Q))

    verdict = judged("first_divergence", copy, healthy, expect=expect)

    assert verdict.outcome.value == outcome
    assert [(f.code, f.location) for f in verdict.findings] == [("GM950", LAYER)]


def test_honest_fine_tune_has_a_note_alone(judged, healthy, tmp_path):
    verdict = judged("first_divergence", fine_tuned(healthy, tmp_path / "tuned"), healthy, expect="finetuned")

    assert (verdict.outcome, errors(verdict)) == (Outcome.PASSED, [])
    assert {finding.component for finding in verdict.findings} == {"transformer"}


def test_adapter_is_found_where_it_is_worn(judged, healthy, tmp_path):
    adapter = write_adapter(healthy, tmp_path / "adapter")

    verdict = judged("first_divergence", adapter, healthy, expect="adapter")

    [finding] = verdict.findings
    assert (verdict.outcome, finding.code, finding.severity) == (Outcome.PASSED, "GM951", Severity.NOTE)
    assert "wears an adapter" in finding.message


def test_models_that_sample_alike_are_not_traced(judged, healthy, copy, monkeypatch):
    def unread(tensors):
        tensors["not_read_by_anybody"] = torch.ones(2)

    edit_tensors(copy / TRANSFORMER, unread)
    monkeypatch.setattr(divergence, "find_divergence", None)

    verdict = judged("first_divergence", copy, healthy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert "bit by bit" in verdict.measurements["proven"]


def test_failed_comparison_of_samples_is_followed_up_once(judged, healthy, copy, monkeypatch):
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    calls = []
    search = divergence.find_divergence
    monkeypatch.setattr(divergence, "find_divergence", lambda *a, **k: calls.append(a) or search(*a, **k))

    verdict = judged("sound_video", copy, healthy, parameters={"seeds": 2, "frames": 9})

    assert verdict.outcome is Outcome.FAILED
    assert (verdict.findings[-1].code, verdict.findings[-1].location) == ("GM951", "scheduler:step")
    assert verdict.findings[-1].severity is Severity.ERROR
    assert len(calls) == 1
    assert len(verdict.measurements["divergence"]["psnr"]) == 9


def test_comparison_that_holds_is_not_traced(judged, healthy, copy, monkeypatch):
    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: tensors[TO_Q] + 1e-6})
    monkeypatch.setattr(divergence, "find_divergence", None)

    verdict = judged("sound_video", copy, healthy, parameters={"seeds": 2, "frames": 9})

    assert verdict.outcome is Outcome.PASSED


def test_search_that_cannot_be_made_leaves_the_verdict_as_it_was(judged, healthy, copy, monkeypatch):
    from pytest_genmodel.errors import GenmodelError

    def fail(*_, **__):
        raise GenmodelError("no room")

    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    monkeypatch.setattr(divergence, "find_divergence", fail)

    after = judged("sound_video", copy, healthy, parameters={"seeds": 2, "frames": 9})
    asked = judged("first_divergence", copy, healthy)

    assert after.outcome is Outcome.FAILED
    assert not [f for f in after.findings if f.code.startswith("GM95")]
    assert (asked.outcome, asked.reason) == (Outcome.INCONCLUSIVE, "no room")


def test_option_adds_the_claims(run):
    asked = run("--genmodel-ref={healthy}", "--genmodel-trace", "--collect-only", "-q").outlines
    plain = run("--genmodel-ref={healthy}", "--collect-only", "-q").outlines

    claims = [f"genmodel::sampling::{name}" for name in ("first_divergence", "swap_bisection")]
    assert [line for line in asked if line in claims] == claims
    assert not [line for line in plain if line in claims]


def test_ini_file_asks_too_and_the_report_holds_the_place(run, report, pytester, healthy, copy):
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    pytester.makeini("[pytest]\ngenmodel_trace = true")

    result = run(
        f"--genmodel-ckpt={copy}",
        "--genmodel-ref={healthy}",
        "--genmodel-json=report.json",
        "genmodel::sampling::first_divergence",
        candidate=False,
    )

    assert result.ret == 1
    [verdict] = report()["verdicts"]
    [finding] = verdict["findings"]
    assert (finding["code"], finding["component"], finding["location"]) == (
        "GM951",
        "scheduler",
        "scheduler:step",
    )
    assert finding["evidence"]["step"] == 1
    assert str(copy) not in str(finding)
