"""known_fields: what a class passes over is found; bookkeeping, what is off and a scheduler's kind are not."""

from __future__ import annotations

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import edit_json

CONFIG = "transformer/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


def found(verdict):
    return [(f.code, f.severity.value, f.component, f.location) for f in verdict.findings]


def test_healthy_configuration_is_known(judged, healthy):
    verdict = judged("known_fields", healthy, level="static")

    assert (verdict.outcome, found(verdict)) == (Outcome.PASSED, [])
    assert verdict.measurements["fields"] > 50


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        (CONFIG, {"_name_or_path": "somewhere", "_use_default_values": ["a"], "torch_dtype": "bfloat16"}),
        (CONFIG, {"quantization_config": {"quant_method": "bitsandbytes"}}),
        (CONFIG, {"new_branch": None, "new_switch": False, "new_list": []}),
        (
            SCHEDULER,
            {"skip_prk_steps": True, "use_karras_sigmas": True},
        ),  # other schedulers of its kind have them
        ("vae/config.json", {"_diffusers_version": "0.30.0.dev0"}),
        ("text_encoder/config.json", {"use_cache": True, "gradient_checkpointing": True}),
        ("model_index.json", {"_name_or_path": "x", "image_encoder": [None, None], "note": None}),
    ],
)
def test_field_that_changes_nothing_is_silent(judged, copy, file, fields):
    edit_json(copy / file, **fields)

    verdict = judged("known_fields", copy, level="static")

    assert (verdict.outcome, found(verdict)) == (Outcome.PASSED, [])


def test_misspelt_field_is_a_warning_and_fails_a_strict_run(judged, copy):
    edit_json(copy / CONFIG, use_rotary_position_embeddings=True)
    expected = [("GM432", "warning", "transformer", "config.json:use_rotary_position_embeddings")]

    verdict = judged("known_fields", copy, level="static")

    assert (verdict.outcome, found(verdict)) == (Outcome.PASSED, expected)
    assert "use_rotary_positional_embeddings was probably meant" in verdict.findings[0].cause
    assert judged("known_fields", copy, level="static", strict=True).outcome is Outcome.FAILED


def test_leftover_is_a_note_and_fails_no_run(judged, copy):
    edit_json(copy / CONFIG, enable_fast_path=True)

    verdict = judged("known_fields", copy, level="static", strict=True)

    assert found(verdict) == [("GM432", "note", "transformer", "config.json:enable_fast_path")]
    assert verdict.outcome is Outcome.PASSED


def test_argument_that_the_pipeline_does_not_take_is_found(judged, copy):
    edit_json(copy / "model_index.json", boundary_ratio=0.9)

    assert found(judged("known_fields", copy, level="static")) == [
        ("GM432", "warning", None, "model_index.json:boundary_ratio")
    ]


def test_later_version_is_a_note_with_both_versions(judged, copy):
    for file in (CONFIG, "vae/config.json"):
        edit_json(copy / file, _diffusers_version="99.1.0")

    [finding] = judged("known_fields", copy, level="static").findings

    assert finding.code == "GM434"
    assert finding.evidence["components"] == ["transformer", "vae"]
    assert "99.1.0" in finding.message
    assert finding.evidence["installed"] in finding.message


def test_settings_of_an_average_in_the_configuration_are_no_finding(judged, copy):
    """diffusers' `EMAModel.save_pretrained` writes them there."""
    edit_json(copy / CONFIG, decay=0.9999, inv_gamma=1.0, power=0.75, optimization_step=100)

    assert found(judged("known_fields", copy, level="static", strict=True)) == []
