"""LTX-2: healthy models pass, real faults are found where they are."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.resolve import resolve
from tests.editing import VAE, drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import check_build, check_suite, places

NAME = "ltx2-i2v"
SOUND = "audio_vae/diffusion_pytorch_model.safetensors"
CONNECTORS = "connectors/diffusion_pytorch_model.safetensors"


def test_the_build_is_equal_everywhere() -> None:
    check_build(NAME)


def test_the_suite_passes() -> None:
    check_suite(NAME)


def test_statistics_of_the_latents_that_were_lost(judged, folders, copied) -> None:
    folder = copied(NAME)
    edit_tensors(folder / VAE, lambda t: t | {"latents_std": torch.ones_like(t["latents_std"])})
    assert ("vae", "latents_std") in {
        place[1:] for place in places(judged("same_weights", folder, folders[NAME]))
    }


def test_registers_that_were_not_saved(judged, copied) -> None:
    """missing-weight-left-on-meta, in a component that only this family has."""
    folder = copied(NAME)
    drop_tensors(folder / CONNECTORS, "video_connector.learnable_registers")
    found = places(judged("coverage", folder))
    assert ("GM201", "connectors", "video_connector.learnable_registers") in found


def test_a_decoder_of_the_sound_that_was_initialised_again(judged, folders, copied) -> None:
    folder, name = copied(NAME), "decoder.mid.block_1.conv1.conv.weight"
    edit_tensors(folder / SOUND, lambda t: t | {name: torch.randn(t[name].shape) * 0.02})
    assert ("audio_vae", name) in {
        place[1:] for place in places(judged("same_weights", folder, folders[NAME]))
    }


def test_positions_of_another_frame_rate(judged, folders, copied) -> None:
    folder = copied(NAME)
    edit_json(folder / "transformer" / "config.json", causal_offset=0)
    found = places(judged("same_config", folder, folders[NAME]))
    assert ("GM401", "transformer", "config.json:causal_offset") in found


def test_the_objective_leaves_the_image_alone_and_reaches_every_parameter(tmp_path) -> None:
    checkpoint = resolve(f"tiny:{NAME}", tmp_path)
    family, pipeline = family_of(checkpoint), tiny.build(NAME)
    clip = torch.rand((9, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    encoded = family.encode(pipeline, clip, "a red square moves right")
    assert encoded.clean is not None
    assert encoded.clean.sum() == encoded.conditions["pictures"].numel() / 3  # one of three latent frames
    loss = family.training_loss(pipeline, clip, "a red square moves right", torch.Generator().manual_seed(0))
    loss.backward()
    assert not [n for n, p in pipeline.transformer.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("text", ["a blue circle stands still", "a red square moves right"])
def test_the_prompt_reaches_the_video(text: str, folders) -> None:
    pipeline = tiny.build(NAME)
    first, second = (
        pipeline.encode_prompt(each, do_classifier_free_guidance=False) for each in (text, "a red")
    )
    assert not torch.equal(pipeline.connectors(*first[:2])[0], pipeline.connectors(*second[:2])[0])
