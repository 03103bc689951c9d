"""CogVideoX in three layouts: healthy models pass, real faults are found where they are."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.resolve import resolve
from tests.editing import TRANSFORMER, drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import check_build, check_suite, places

NAMES = ("cogvideox-i2v", "cogvideox-2b-i2v", "cogvideox1.5-i2v")


@pytest.mark.parametrize("name", NAMES)
def test_the_build_is_equal_everywhere(name):
    check_build(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_passes(name):
    check_suite(name)


def test_2b_with_the_schedule_of_5b(judged, folders, copied):
    copy = copied("cogvideox-2b-i2v")
    edit_json(copy / "scheduler" / "scheduler_config.json", snr_shift_scale=1.0)

    found = places(judged("same_config", copy, folders["cogvideox-2b-i2v"]))

    assert ("GM401", "scheduler", "scheduler_config.json:snr_shift_scale") in found


def test_1_5_that_says_it_has_no_patches_in_time(judged, copied):
    copy = copied("cogvideox1.5-i2v")
    edit_json(copy / "transformer" / "config.json", patch_size_t=None, patch_bias=True)

    found = places(judged("coverage", copy, level="static"))

    assert ("transformer", "patch_embed.proj.weight") in {place[1:] for place in found}


def test_1_5_that_multiplies_the_image_where_it_should_divide(judged, folders, copied):
    copy = copied("cogvideox1.5-i2v")
    edit_json(copy / "vae" / "config.json", invert_scale_latents=False)

    found = places(judged("same_config", copy, folders["cogvideox1.5-i2v"]))

    assert found == {("GM401", "vae", "config.json:invert_scale_latents")}


def test_1_5_larger_than_its_positions_is_refused(folders, tmp_path):
    checkpoint = resolve(str(folders["cogvideox1.5-i2v"]), tmp_path)

    with pytest.raises(BadInputError, match="has positions up to 16x16"):
        family_of(checkpoint).check_size(checkpoint, height=64, width=16, frames=9)


def test_1_5_without_the_embedding_of_the_image_strength(judged, copied):
    copy = copied("cogvideox1.5-i2v")
    drop_tensors(copy / TRANSFORMER, "ofs_embedding.linear_1.weight")

    found = places(judged("coverage", copy))

    assert {place[1:] for place in found} == {("transformer", "ofs_embedding.linear_1.weight")}


@pytest.mark.parametrize("name", NAMES)
def test_a_transformer_that_takes_no_image(judged, copied, name):
    copy = copied(name)
    edit_json(copy / "transformer" / "config.json", in_channels=4)

    found = places(judged("coverage", copy, level="static"))

    assert ("GM430", "transformer", "config.json:in_channels") in found


@pytest.mark.parametrize("name", NAMES)
def test_the_half_of_the_weights_that_reads_the_image_is_zero(judged, folders, copied, name):
    copy = copied(name)
    patch = "patch_embed.proj.weight"

    def blind(tensors):
        changed = tensors[patch].clone()
        # Channels 4 to 8 are the image's; in 1.5 a patch lies flat, channel by channel.
        if changed.ndim == 4:
            changed[:, 4:] = 0
        else:
            changed.unflatten(1, (8, -1))[:, 4:] = 0
        return tensors | {patch: changed}

    edit_tensors(copy / TRANSFORMER, blind)

    verdict = judged("same_weights", copy, folders[name], expect="identical")

    assert ("GM301", "transformer", patch) in places(verdict)


@pytest.mark.parametrize("name", NAMES)
def test_training_reaches_every_parameter(name):
    from pytest_genmodel.pipelines.families.cogvideox import CogVideoX

    pipeline = tiny.build(name)
    clip = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    loss = CogVideoX().training_loss(pipeline, clip, "a red square", torch.Generator().manual_seed(0))
    loss.backward()

    assert loss.isfinite()
    dead = [key for key, p in pipeline.transformer.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
