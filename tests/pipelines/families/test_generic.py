"""Pipelines of no family that is known: files, weights, configuration, round trip and seeds are judged."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.families.generic import Generic
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.resolve import resolve
from pytest_genmodel.pipelines.tiny.cogvideox import WORDS, scheduler
from pytest_genmodel.pipelines.tiny.encoders import (
    T5_WIDTH,
    clip_image_processor,
    clip_text_encoder,
    t5_encoder,
)
from pytest_genmodel.pipelines.tiny.tokenizers import t5_tokenizer
from pytest_genmodel.pipelines.tiny.tokenizers_bpe import clip_tokenizer
from pytest_genmodel.pipelines.tiny.weights import seeded, wake
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.suite import SUITE
from tests.editing import drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import places

UNET = Path("unet/diffusion_pytorch_model.safetensors")


def text_to_image():
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer(WORDS, max_length=16)
    modules = {
        "text_encoder": clip_text_encoder(tokenizer, width=32),
        "vae": AutoencoderKL(
            block_out_channels=(16, 16),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        "unet": UNet2DConditionModel(
            block_out_channels=(16, 32),
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
        ),
        "safety_checker": safety_checker(),
    }
    return StableDiffusionPipeline(
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        feature_extractor=clip_image_processor(16),
        **woken(modules),
    )


def safety_checker():
    """A model of transformers whose class lies in a package of diffusers' pipelines."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    return StableDiffusionSafetyChecker(
        CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=16)
    )


def text_to_video():
    from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel

    tokenizer = t5_tokenizer(WORDS, max_length=16)
    modules = {
        "text_encoder": t5_encoder(len(tokenizer)),
        "vae": AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        ),
        "transformer": CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=T5_WIDTH,
            num_layers=2,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
        ),
    }
    return CogVideoXPipeline(tokenizer=tokenizer, scheduler=scheduler(), **woken(modules))


def woken(modules):
    for module in modules.values():
        wake(module)
        module.eval()
    return modules


BUILDS = {"text-to-image": text_to_image, "text-to-video": text_to_video}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    where = tmp_path_factory.mktemp("generic")
    for name, build in BUILDS.items():
        with quiet(), seeded(7):
            build().save_pretrained(where / name)
    return {name: where / name for name in BUILDS}


@pytest.fixture
def copied(folders, tmp_path):
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / "copy"))


@pytest.mark.parametrize("level", ["static", "quick", "full"])
@pytest.mark.parametrize("name", BUILDS)
def test_the_suite_passes_and_says_what_is_left_out(folders, name, level):
    spec = str(folders[name])
    session = GenmodelSession(Settings(candidates=(spec,), reference=spec, level=level))
    try:
        verdicts = {
            (kind, claim.name): session.judge(0, claim.invariant, dict(claim.parameters))
            for kind, claims in SUITE.items()
            for claim in claims
        }
    finally:
        session.close()

    for (kind, claim), verdict in verdicts.items():
        assert not [f for f in verdict.findings if f.severity.value != "note"], (claim, verdict.findings)
        assert verdict.outcome in (Outcome.PASSED, Outcome.SKIPPED), (claim, verdict.reason)
        if kind == "training" and level != "static":
            assert verdict.outcome is Outcome.SKIPPED
            assert (
                "is of no family that is known here: the claims about the built-in trainers" in verdict.reason
            )
    judged = {claim for (_, claim), verdict in verdicts.items() if verdict.outcome is Outcome.PASSED}
    assert {"coverage", "sound_weights", "same_weights", "same_config"} <= judged
    if level != "static":
        assert {"save_load_round_trip", "seeded_sampling"} <= judged


@pytest.mark.parametrize(
    ("name", "size", "frames"), [("text-to-image", (32, 32), 1), ("text-to-video", (16, 16), 9)]
)
def test_the_size_is_that_of_the_denoiser(folders, tmp_path, name, size, frames):
    checkpoint = resolve(str(folders[name]), tmp_path)
    pipeline = Pipeline(checkpoint, Placement("cpu", "float32"))

    probe = make_probe(ProbeWishes(), checkpoint, pipeline.family, full=False)
    sample = pipeline.sample(probe)

    assert ((probe.height, probe.width), probe.frames) == (size, frames)
    assert sample.frames.shape == (frames, 3, *size)
    assert len(sample.latents) == probe.steps
    assert not pipeline.family.is_known


def test_a_unet_that_lost_a_tensor(judged, copied):
    copy = copied("text-to-image")
    drop_tensors(copy / UNET, "conv_in.weight")

    assert places(judged("coverage", copy)) == {("GM201", "unet", "conv_in.weight")}


def test_another_schedule(judged, folders, copied):
    copy = copied("text-to-image")
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")

    found = places(judged("same_config", copy, folders["text-to-image"]))

    assert found == {("GM401", "scheduler", "scheduler_config.json:prediction_type")}


def test_the_unet_is_what_fine_tuning_may_change(judged, folders, copied):
    copy = copied("text-to-image")
    generator = torch.Generator().manual_seed(0)

    def train(tensors):
        return {n: t + 1e-3 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}

    edit_tensors(copy / UNET, train)

    assert (
        judged("same_weights", copy, folders["text-to-image"], expect="finetuned").outcome is Outcome.PASSED
    )
    assert judged("same_weights", copy, folders["text-to-image"], expect="adapter").outcome is Outcome.FAILED


def named(pipeline_class, **components):
    return SimpleNamespace(spec="run-17", pipeline_class=pipeline_class, components=components)


def probe():
    return Probe(torch.zeros(3, 32, 32), "a red square", "", 0, 4, 9, 32, 32, 6.0)


def test_a_call_that_asks_for_what_no_probe_holds_is_not_made():
    checkpoint = named("WanAnimatePipeline", transformer=None, vae=None)

    with pytest.raises(BadInputError, match="its call asks for pose_video, face_video, which no probe holds"):
        family_of(checkpoint).call_arguments(checkpoint, probe())


def test_a_video_is_asked_for_by_its_own_name():
    checkpoint = named("CogVideoXVideoToVideoPipeline", transformer=None, vae=None)

    arguments = family_of(checkpoint).call_arguments(checkpoint, probe())

    assert len(arguments["video"]) == 9
    assert "image" not in arguments
    assert arguments["num_inference_steps"] == 4


@pytest.mark.parametrize(
    ("pipeline_class", "idle"),
    [("FluxPipeline", {"negative_prompt"}), ("StableDiffusionPipeline", set()), ("WanPipeline", set())],
)
def test_a_negative_prompt_counts_where_the_call_makes_an_unconditional_one(tmp_path, pipeline_class, idle):
    checkpoint = Checkpoint("any", tmp_path, Kind.PIPELINE, pipeline_class=pipeline_class)

    assert Generic(pipeline_class, "transformer").without_effect(checkpoint) == idle
