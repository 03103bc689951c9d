"""Folders of a whole pipeline without weights or configuration, told at rest; what is given in part is not whole."""

from __future__ import annotations

import shutil

import pytest

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.diagnosis.at_rest import findings_at_rest
from pytest_genmodel.diagnosis.at_rest.lacking import needs_weights
from tests.editing import edit_json

WEIGHTS = "diffusion_pytorch_model.safetensors"


def told(path):
    return [
        (f.code, f.component, f.location, f.message) for f in findings_at_rest(open_checkpoint(path, "x"))
    ]


@pytest.mark.parametrize(
    ("part", "file", "what"),
    [
        ("vae", WEIGHTS, "weights"),
        ("text_encoder", "model.safetensors", "weights"),
        ("vae", "config.json", "configuration"),
        ("scheduler", "scheduler_config.json", "configuration"),
    ],
)
def test_a_component_that_lacks_a_file_is_found_at_rest(copy, part, file, what):
    cls = open_checkpoint(copy, "x").components[part].class_name
    (copy / part / file).unlink()

    assert told(copy) == [("GM103", part, f"{part}/", f"the folder of {cls} holds no {what}")]


def test_whole_and_partial_checkpoints_are_silent(copy, tmp_path):
    edit_json(copy / "model_index.json", image_encoder=[None, None])
    assert told(copy) == []
    part = tmp_path / "vae"
    shutil.copytree(copy / "vae", part)
    assert told(part) == []
    (part / WEIGHTS).unlink()
    assert "GM103" not in [code for code, *_ in told(part)]  # what is given in part is laid over a reference
    assert told(copy / "vae" / WEIGHTS) == []


def test_a_tokenizer_may_be_a_vocabulary_alone(copy):
    for file in (copy / "tokenizer").glob("*.json"):
        file.rename(file.with_suffix(".model"))

    assert told(copy) == []


def test_nothing_is_imported_for_what_has_no_weights_by_nature(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pytest_genmodel.diagnosis.at_rest.lacking.class_named", lambda *_: pytest.fail("imported")
    )
    for cls in ("UniPCMultistepScheduler", "T5TokenizerFast", "CLIPImageProcessor", "CLIPFeatureExtractor"):
        assert not needs_weights(Component("part", tmp_path, "transformers", cls))


def test_a_model_needs_weights(tmp_path):
    assert needs_weights(Component("vae", tmp_path, "diffusers", "AutoencoderKLCogVideoX"))


def test_coverage_says_it_once_and_sound_weights_does_not(judged, copy):
    (copy / "vae" / "config.json").unlink()

    assert [(f.code, f.component) for f in judged("coverage", copy).findings] == [("GM103", "vae")]
    assert judged("sound_weights", copy).findings == ()
