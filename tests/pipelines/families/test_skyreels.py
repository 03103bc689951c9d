"""SkyReels-V2, Wan's way and by diffusion forcing: healthy models pass, real faults are found where they are."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families.skyreels import SkyReels, SkyReelsForcing
from tests.editing import TRANSFORMER, drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import check_build, check_suite, places

CLIP, FORCING = "skyreels-v2-i2v", "skyreels-v2-df-i2v"
NAMES = (CLIP, FORCING)


@pytest.mark.parametrize("name", NAMES)
def test_the_build_is_equal_everywhere(name):
    check_build(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_passes(name):
    check_suite(name)


def test_the_transformer_of_the_other_kind(judged, folders, copied):
    copy = copied(FORCING)
    shutil.rmtree(copy / "transformer")
    shutil.copytree(folders[CLIP] / "transformer", copy / "transformer")

    found = places(judged("coverage", copy, level="static"))

    assert found == {("GM430", "transformer", "config.json:in_channels")}


def test_the_rate_of_the_frames_is_no_condition_any_more(judged, folders, copied):
    """The configuration forgot it: the layers of the file are passed over."""
    copy = copied(FORCING)
    edit_json(copy / "transformer" / "config.json", inject_sample_info=...)

    assert ("GM202", "transformer") in {place[:2] for place in places(judged("coverage", copy))}
    assert places(judged("same_config", copy, folders[FORCING])) == {
        ("GM401", "transformer", "config.json:inject_sample_info")
    }


def test_frames_are_denoised_in_blocks_that_nobody_trained(judged, folders, copied):
    copy = copied(FORCING)
    edit_json(copy / "transformer" / "config.json", num_frame_per_block=3)

    assert places(judged("same_config", copy, folders[FORCING])) == {
        ("GM401", "transformer", "config.json:num_frame_per_block")
    }


def test_an_image_encoder_that_lost_a_tensor(judged, copied):
    copy = copied(CLIP)
    file = copy / "image_encoder" / "model.safetensors"
    name = next(n for n in load_file(file) if "layers.0.mlp.fc1.w" in n)
    drop_tensors(file, name)

    assert places(judged("coverage", copy)) == {("GM201", "image_encoder", name)}


@pytest.mark.parametrize("name", NAMES)
def test_a_transposed_projection(judged, folders, copied, name):
    copy = copied(name)
    tensor = "blocks.1.attn1.to_v.weight"
    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {tensor: tensors[tensor].T.contiguous()})

    verdict = judged("same_weights", copy, folders[name], expect="identical")

    assert places(verdict) == {("GM318", "transformer", tensor)}


@pytest.mark.parametrize(("name", "family"), [(CLIP, SkyReels()), (FORCING, SkyReelsForcing())])
def test_training_reaches_every_parameter(name, family):
    pipeline = tiny.build(name)
    clip = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    loss = family.training_loss(pipeline, clip, "a red square", torch.Generator().manual_seed(0))
    loss.backward()

    assert loss.isfinite()
    dead = [key for key, p in pipeline.transformer.named_parameters() if p.grad is None or not p.grad.any()]
    # One rate of frames is asked for at a time: the other's row of the table gets none, the table does.
    assert dead == []
