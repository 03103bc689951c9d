"""same_config: effective values, the schedule, and token ids."""

from __future__ import annotations

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import edit_json

SCHEDULER = "scheduler/scheduler_config.json"


def test_holds_for_a_copy(judged, copy, healthy):
    verdict = judged("same_config", copy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.findings == ()
    assert verdict.measurements["values_compared"] > 50


@pytest.mark.parametrize(
    ("file", "key", "value", "component"),
    [
        (SCHEDULER, "prediction_type", "epsilon", "scheduler"),
        (SCHEDULER, "rescale_betas_zero_snr", False, "scheduler"),
        (SCHEDULER, "snr_shift_scale", 3.0, "scheduler"),
        ("vae/config.json", "scaling_factor", 1.15258426, "vae"),
        ("vae/config.json", "invert_scale_latents", True, "vae"),
        ("transformer/config.json", "norm_eps", 1e-6, "transformer"),
        ("transformer/config.json", "flip_sin_to_cos", False, "transformer"),
        ("text_encoder/config.json", "layer_norm_epsilon", 1e-3, "text_encoder"),
    ],
)
def test_value_that_acts_is_found_at_its_key(judged, copy, healthy, file, key, value, component):
    edit_json(copy / file, **{key: value})

    findings = judged("same_config", copy, healthy).findings

    first = findings[0]
    assert first.code == "GM401"
    assert (first.component, first.location) == (component, f"{file.split('/')[1]}:{key}")
    assert first.evidence["candidate"] == value


def test_removed_value_counts_as_its_default(judged, copy, healthy):
    edit_json(copy / SCHEDULER, prediction_type=...)

    first = judged("same_config", copy, healthy).findings[0]

    assert first.location == "scheduler_config.json:prediction_type"
    assert first.evidence == {"candidate": "epsilon", "reference": "v_prediction", "is_default": True}


def test_schedule_is_compared_as_arrays(judged, copy, healthy):
    edit_json(copy / SCHEDULER, timestep_spacing="leading")

    findings = judged("same_config", copy, healthy).findings

    assert "GM402" in [finding.code for finding in findings]


def test_other_scheduler_class_is_found(judged, copy, healthy):
    edit_json(copy / "model_index.json", scheduler=["diffusers", "CogVideoXDPMScheduler"])

    findings = judged("same_config", copy, healthy).findings

    assert ("GM401", "model_index.json:scheduler") in [(f.code, f.location) for f in findings]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (SCHEDULER, {"clip_sample": True}),
        (SCHEDULER, {"_diffusers_version": "0.30.0"}),
        (SCHEDULER, {"set_alpha_to_one": ...}),
        ("transformer/config.json", {"_name_or_path": "/somewhere/else"}),
        ("transformer/config.json", {"left_over_of_an_older_class": 3}),
        ("text_encoder/config.json", {"transformers_version": "4.1.0", "torch_dtype": "float16"}),
        ("vae/config.json", {"norm_eps": ...}),
    ],
)
def test_what_does_not_act_is_no_difference(judged, copy, healthy, file, changes):
    edit_json(copy / file, **changes)

    assert judged("same_config", copy, healthy).findings == ()


def test_size_of_training_is_a_warning(judged, copy, healthy):
    edit_json(copy / "transformer/config.json", sample_frames=13)

    verdict = judged("same_config", copy, healthy)

    assert [(f.code, f.severity.value) for f in verdict.findings] == [("GM404", "warning")]
    assert verdict.outcome is Outcome.PASSED


def test_other_vocabulary_gives_other_ids(judged, copy, healthy):
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("red", "der"))

    findings = judged("same_config", copy, healthy).findings

    assert [finding.code for finding in findings] == ["GM403"]
    assert findings[0].evidence["text"] == "a red square moves right"
