"""A value of another kind in a configuration is said by file, key and value, and is no crash of ours."""

from __future__ import annotations

import pytest

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import unusable
from pytest_genmodel.pipelines.effective import effective_config
from tests.editing import edit_json

TOKENS = "tokenizer/tokenizer_config.json"
ODD = [
    (TOKENS, "model_max_length", "long", "a number"),
    ("text_encoder/config.json", "model_type", {"odd": 1}, "a text"),
]


@pytest.mark.parametrize(("file", "key", "value", "wanted"), ODD)
def test_coverage_finds_the_value_that_no_library_can_work_with(judged, copy, file, key, value, wanted):
    edit_json(copy / file, **{key: value})

    verdict = judged("coverage", copy)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component, finding.location) == ("GM101", *file.split("/"))
    assert finding.message.endswith(f"{key} is {value!r}, where {wanted} is expected")


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (TOKENS, {"model_max_length": "long"}, "model_max_length is 'long', where a number is expected"),
        (TOKENS, {"model_max_length": -1}, "model_max_length is -1, where a number of 0 or more is expected"),
    ],
)
def test_another_claim_names_file_key_and_value(judged, copy, healthy, file, values, said):
    edit_json(copy / file, **values)

    verdict = judged("same_config", copy, healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason.startswith(f"{file}: {said} (it ends in ")


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("transformer/config.json", "sample_width", None, "sample_width is null, where a number is expected"),
        ("vae/config.json", "temporal_compression_ratio", "4", "is '4', where a number is expected"),
        ("vae/config.json", "latents_mean", 3, "latents_mean is 3, where a list or null is expected"),
        ("vae/config.json", "block_out_channels", ["x"], "['x'], where a list of numbers is expected"),
        ("transformer/config.json", "patch_size", "x", "patch_size is 'x', where a number is expected"),
        ("scheduler/scheduler_config.json", "trained_betas", -1, "-1, where a list or null is expected"),
        ("scheduler/scheduler_config.json", "beta_start", [], "beta_start is [], where a number is expected"),
    ],
)
def test_arguments_of_a_class_are_known_by_annotation_and_default(copy, file, key, value, said):
    edit_json(copy / file, **{key: value})

    assert said in str(unusable.unusable_value(open_checkpoint(copy, "x")))


def test_a_configuration_that_makes_no_model_names_the_value(judged, copy):
    edit_json(copy / "transformer/config.json", sample_width=None)

    [finding] = judged("coverage", copy, level="static").findings

    assert (finding.code, finding.component) == ("GM108", "transformer")
    assert finding.cause == "config.json: sample_width is null, where a number is expected"


def test_a_healthy_checkpoint_has_none(healthy):
    assert unusable.unusable_value(open_checkpoint(healthy, "x")) is None


def test_a_crash_that_no_value_explains_is_still_ours(judged, copy, healthy, monkeypatch):
    monkeypatch.setattr("pytest_genmodel.invariants.judge.unusable_value", lambda _: None)
    edit_json(copy / TOKENS, model_max_length="long")

    assert "the check itself crashed" in judged("same_config", copy, healthy).reason


def test_what_an_image_processor_refuses_has_its_place(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"crop_size": {"odd": 1}}')
    part = Component("image_processor", tmp_path, "transformers", "CLIPImageProcessor")

    with pytest.raises(
        DamagedFileError, match=r"^preprocessor_config\.json: CLIPImageProcessor\w* refuses it \("
    ):
        effective_config(part)
