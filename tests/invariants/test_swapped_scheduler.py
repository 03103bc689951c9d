"""A scheduler swapped as users do it, `OTHER.from_config(pipeline.scheduler.config)`: what is said is true, once."""

from __future__ import annotations

import json
import shutil

import diffusers
import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.library import quiet
from tests.editing import edit_json

CONFIG = "scheduler/scheduler_config.json"


def swap(folder, name, **others):
    with quiet():
        made = getattr(diffusers, name).from_config(json.loads((folder / CONFIG).read_text()), **others)
        shutil.rmtree(folder / "scheduler")
        made.save_pretrained(folder / "scheduler")
    edit_json(folder / "model_index.json", scheduler=["diffusers", name])
    return folder


def said(verdict):
    return [(f.code, f.severity.value, f.location) for f in verdict.findings]


def test_the_class_is_the_one_difference(judged, copy, healthy):
    swap(copy, "DPMSolverMultistepScheduler")

    assert said(judged("same_config", copy, healthy)) == [("GM401", "error", "model_index.json:scheduler")]


def test_other_timesteps_are_told_where_they_differ(judged, copy, healthy):
    swap(copy, "DDIMScheduler", timestep_spacing="leading", beta_end=0.0125)

    found = judged("same_config", copy, healthy).findings

    assert [(f.code, f.location.partition(":")[2]) for f in found] == [
        ("GM401", "scheduler"),
        ("GM401", "beta_end"),
        ("GM401", "timestep_spacing"),
        ("GM402", "timesteps"),
    ]
    ours, theirs = found[-1].message.split(", the reference's ")
    assert ours.startswith("timesteps for 4 steps are [750, 500, 250")
    assert theirs.startswith("[999, 749, 499, 249]")


def test_array_that_parts_late_is_shown_from_there(judged, copy, healthy):
    edit_json(copy / CONFIG, rescale_betas_zero_snr=False, snr_shift_scale=1.0)
    edit_json(copy / CONFIG, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012 + 1e-9)

    [finding] = [f for f in judged("same_config", copy, healthy).findings if f.code == "GM402"]

    ours, theirs = finding.message.split(", the reference's ")
    assert ours.rpartition("are ")[2] != theirs


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_solver_made_for_sampling_does_not_stop_what_trains(judged, copy, name):
    swap(copy, name)

    for claim, parameters in (
        ("tensors_matter", {}),
        ("zero_lr_identity", {"trainer": "full"}),
        ("training_conditions", {"trainer": "full"}),
    ):
        verdict = judged(claim, copy, parameters=parameters)
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ()), claim


def test_fields_that_the_new_class_inherits_by_default_are_notes(judged, tmp_path):
    folder = tiny.materialise("wan2.1-i2v", tmp_path)
    swap(folder, "FlowMatchEulerDiscreteScheduler", shift=5.0)

    found = {f.location.partition(":")[2]: f.severity.value for f in judged("known_fields", folder).findings}

    assert found["dynamic_thresholding_ratio"] == "note"
    assert found["flow_shift"] == "warning"  # this one was chosen, and does nothing any more
    assert [key for key, severity in found.items() if severity != "note"] == ["flow_shift"]


def test_same_steps_as_whole_numbers_or_not_are_the_same(judged, copy, healthy):
    swap(copy, "EulerDiscreteScheduler")

    assert "GM903" not in [f.code for f in judged("denoiser_call", copy, healthy).findings]


def test_kept_tokens_do_not_hide_how_the_times_differ(judged, tmp_path):
    base = tiny.materialise("ltx-i2v", tmp_path / "base")
    folder = shutil.copytree(base, tmp_path / "other")
    edit_json(folder / CONFIG, num_train_timesteps=900)

    [finding] = [f for f in judged("denoiser_call", folder, base).findings if f.code == "GM903"]

    assert finding.evidence["candidate"] != finding.evidence["reference"]


@pytest.mark.parametrize("steps", [1000.0, None])
def test_scheduler_that_does_not_load_is_said_in_words(judged, copy, steps):
    edit_json(copy / CONFIG, num_train_timesteps=steps)

    verdict = judged("sound_schedule", copy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason.startswith("scheduler does not load: ")


@pytest.mark.parametrize("claim", ["same_config", "sound_schedule", "seeded_sampling"])
def test_more_steps_than_the_schedule_has_are_said_in_words(judged, healthy, claim):
    verdict = judged(claim, healthy, healthy, steps=2000)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "makes no schedule of 2000 steps" in verdict.reason
    assert verdict.reason.endswith("(ask for another number of them: --genmodel-steps)")
