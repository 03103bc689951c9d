"""same_config and sound_weights: another pipeline class, and one expert under both names."""

from __future__ import annotations

import shutil

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from tests.editing import edit_json


@pytest.fixture
def copy(healthy, tmp_path):
    return shutil.copytree(healthy, tmp_path / "copy")


@pytest.mark.parametrize(
    ("name", "outcome", "severity"),
    [("CogVideoXPipeline", Outcome.FAILED, "error"), ("CogVideoXImageToVideoPipeline", Outcome.PASSED, None)],
)
def test_pipeline_that_takes_no_image(judged, copy, healthy, name, outcome, severity):
    edit_json(copy / "model_index.json", _class_name=name)

    verdict = judged("same_config", copy, healthy)

    assert verdict.outcome is outcome
    assert [(f.code, f.location, f.severity.value) for f in verdict.findings] == (
        [("GM435", "model_index.json:_class_name", severity)] if severity else []
    )


def test_other_class_that_takes_the_same_is_a_warning(judged, tmp_path):
    healthy = tiny.materialise("ltx-i2v", tmp_path)
    copy = shutil.copytree(healthy, tmp_path / "copy")
    edit_json(copy / "model_index.json", _class_name="LTXConditionPipeline")

    found = [f for f in judged("same_config", copy, healthy).findings if f.code == "GM435"]

    assert [f.severity.value for f in found] == ["warning"]


def test_one_expert_in_both_folders(judged, tmp_path):
    healthy = tiny.materialise("wan2.2-a14b-i2v", tmp_path)
    copy = shutil.copytree(healthy, tmp_path / "copy")
    shutil.rmtree(copy / "transformer_2")
    shutil.copytree(copy / "transformer", copy / "transformer_2")

    alone, of_itself = judged("sound_weights", copy), judged("sound_weights", copy, copy)

    assert [(f.code, f.component) for f in alone.findings] == [("GM436", "transformer_2")]
    assert alone.outcome is Outcome.FAILED
    assert of_itself.findings == ()
    assert judged("sound_weights", healthy).findings == ()
