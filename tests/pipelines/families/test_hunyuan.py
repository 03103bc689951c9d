"""HunyuanVideo image-to-video, SkyReels V1, FramePack: healthy models pass, real faults are found where they are."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.families.hunyuan import text_length
from pytest_genmodel.pipelines.resolve import resolve
from tests.editing import TRANSFORMER, drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import check_build, check_suite, places

NAMES = ("hunyuan-i2v", "hunyuan-i2v-token-replace", "hunyuan-skyreels-i2v", "hunyuan-framepack")


@pytest.fixture
def healthy(folders: dict[str, Path]) -> Path:
    return folders["hunyuan-i2v"]


@pytest.fixture
def copy(healthy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(healthy, tmp_path / "copy"))


@pytest.mark.parametrize("name", NAMES)
def test_the_build_is_equal_everywhere(name: str) -> None:
    check_build(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_passes(name: str) -> None:
    check_suite(name)


def test_the_tokenizer_counts_the_templates_as_the_pipelines_do() -> None:
    """They cut the template off by its number of tokens: one too many, and the prompt is cut off with it."""
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_skyreels_image2video as skyreels
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_image2video as hunyuan

    tokenizer = tiny.build("hunyuan-i2v").tokenizer
    for template in (hunyuan.DEFAULT_PROMPT_TEMPLATE, skyreels.DEFAULT_PROMPT_TEMPLATE):
        before = template["template"].partition("{}")[0]
        assert len(tokenizer(before).input_ids) == template["crop_start"]


def test_the_room_for_the_prompt_is_what_lies_behind_the_template(folders, tmp_path) -> None:
    for name in NAMES:
        checkpoint = resolve(str(folders[name]), tmp_path)
        module = importlib.import_module(getattr(diffusers, str(checkpoint.pipeline_class)).__module__)
        cut = module.DEFAULT_PROMPT_TEMPLATE["crop_start"]
        assert text_length(checkpoint) == tiny.build(name).tokenizer.model_max_length - cut


def test_a_clip_of_which_nothing_would_be_left_is_refused(folders, tmp_path) -> None:
    beside, replaces = (resolve(str(folders[name]), tmp_path) for name in NAMES[:2])
    with pytest.raises(BadInputError, match="drops the first 4"):
        family_of(beside).check_size(beside, height=16, width=16, frames=1)
    family_of(replaces).check_size(replaces, height=16, width=16, frames=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_reaches_the_denoiser(name: str, tmp_path) -> None:
    checkpoint = resolve(f"tiny:{name}", tmp_path)
    family, pipeline = family_of(checkpoint), tiny.build(name)
    side = 32 if name == "hunyuan-framepack" else 16
    clip = torch.rand((9, 3, side, side), generator=torch.Generator().manual_seed(0))
    right, left = (
        family.training_loss(pipeline, clip, f"a red square moves {way}", torch.Generator().manual_seed(0))
        for way in ("right", "left")
    )
    assert right != left
    right.backward()
    assert not [n for n, p in pipeline.transformer.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_scaling_factor_of_another_autoencoder(judged, healthy: Path, copy: Path) -> None:
    """vae-scaling-factor-overridden."""
    edit_json(copy / "vae" / "config.json", scaling_factor=0.18215)
    found = places(judged("same_config", copy, healthy))
    assert found == {("GM401", "vae", "config.json:scaling_factor")}


def test_text_that_is_pooled_at_the_wrong_token(judged, healthy: Path, copy: Path) -> None:
    """clip-pooling-legacy-eos."""
    edit_json(copy / "text_encoder_2" / "config.json", eos_token_id=2)
    found = places(judged("same_config", copy, healthy))
    assert ("GM401", "text_encoder_2", "config.json:eos_token_id") in found


def test_a_value_deep_in_the_configuration_is_named_by_its_path(judged, healthy: Path, copy: Path) -> None:
    import json

    file = copy / "text_encoder" / "config.json"
    text = json.loads(file.read_text())["text_config"]
    edit_json(file, text_config=text | {"rms_norm_eps": 0.01})
    found = places(judged("same_config", copy, healthy))
    assert found == {("GM401", "text_encoder", "config.json:text_config.rms_norm_eps")}


def test_a_count_of_image_tokens_that_does_not_fit(judged, healthy: Path, copy: Path) -> None:
    """hunyuan-i2v-image-token-expansion: one token more than the image has; nothing may pass by not running."""
    edit_json(copy / "text_encoder" / "config.json", image_seq_length=5)
    assert ("GM401", "text_encoder", "config.json:image_seq_length") in places(
        judged("same_config", copy, healthy)
    )
    assert judged("seeded_sampling", copy).outcome is Outcome.INCONCLUSIVE


def test_a_part_of_the_language_model_that_was_not_saved(judged, copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    lost: list[str] = []

    def lose(tensors):
        lost.append(
            next(name for name in tensors if "layers.1.self_attn.q_proj" in name and "vision" not in name)
        )
        return {name: tensor for name, tensor in tensors.items() if name not in lost}

    edit_tensors(file, lose)
    (found,) = judged("coverage", copy).findings
    assert (found.code, found.component) == ("GM201", "text_encoder")
    assert found.location.endswith("layers.1.self_attn.q_proj.weight")


def test_a_token_refiner_that_was_not_saved(judged, copy: Path) -> None:
    name = "context_embedder.proj_in.weight"
    drop_tensors(copy / TRANSFORMER, name)
    assert ("GM201", "transformer", name) in places(judged("coverage", copy))


def test_a_tokenizer_that_was_deleted(judged, copy: Path) -> None:
    for file in (copy / "tokenizer_2").iterdir():
        file.unlink()
    assert ("GM107", "tokenizer_2", "tokenizer_2/") in places(judged("coverage", copy))


def test_the_history_of_framepack_that_was_not_saved(judged, folders, tmp_path) -> None:
    copy = Path(shutil.copytree(folders["hunyuan-framepack"], tmp_path / "copy"))
    name = "clean_x_embedder.proj_4x.weight"
    drop_tensors(copy / TRANSFORMER, name)
    assert ("GM201", "transformer", name) in places(judged("coverage", copy))


def test_the_switch_of_framepacks_history(judged, folders, tmp_path) -> None:
    healthy = folders["hunyuan-framepack"]
    copy = Path(shutil.copytree(healthy, tmp_path / "copy"))
    edit_json(copy / "transformer" / "config.json", has_clean_x_embedder=False)
    found = places(judged("same_config", copy, healthy))
    assert found == {("GM401", "transformer", "config.json:has_clean_x_embedder")}
