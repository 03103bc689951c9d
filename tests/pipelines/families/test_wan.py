"""Wan 2.1, 2.2 and ChronoEdit: healthy models pass, real faults are found where they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.families.wan import Wan
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.resolve import resolve
from tests.editing import TRANSFORMER, drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import check_build, check_suite, places

EXPERTS = "wan2.2-a14b-i2v"
EXPANDED = "wan2.2-ti2v-5b"
CLIP = "wan2.1-i2v"
NAMES = (CLIP, "wan2.1-flf2v", EXPERTS, EXPANDED, "chronoedit")
SECOND = Path("transformer_2/diffusion_pytorch_model.safetensors")
TO_Q = "blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize("name", NAMES)
def test_the_build_is_equal_everywhere(name):
    check_build(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_passes(name):
    check_suite(name)


@pytest.mark.parametrize(
    ("name", "height", "frames", "says"),
    [
        (CLIP, 24, 9, "not in multiples of 16 pixels"),
        (EXPANDED, 16, 9, "not in multiples of 32 pixels"),
        (CLIP, 16, 8, "Wan makes 4k \\+ 1 .the nearest is 9"),
        ("chronoedit", 16, 9, "ChronoEdit makes 5 frames"),
    ],
)
def test_sizes_that_cannot_be_made_are_refused(folders, tmp_path, name, height, frames, says):
    checkpoint = resolve(str(folders[name]), tmp_path)

    with pytest.raises(BadInputError, match=says):
        family_of(checkpoint).check_size(checkpoint, height=height, width=32, frames=frames)


@pytest.mark.parametrize(
    ("name", "size"), [(CLIP, (480, 832, 81)), (EXPANDED, (704, 1280, 121)), ("chronoedit", (480, 832, 5))]
)
def test_without_a_probe_file_the_size_is_that_of_the_published_models(copied, tmp_path, name, size):
    copy = copied(name)
    (copy / "probe.json").unlink()
    checkpoint = resolve(str(copy), tmp_path)

    geometry = family_of(checkpoint).geometry(checkpoint)

    assert (geometry.height, geometry.width, geometry.frames) == size


# Two experts.


def exchange(copy):
    os.replace(copy / "transformer", copy / "aside")
    os.replace(copy / "transformer_2", copy / "transformer")
    os.replace(copy / "aside", copy / "transformer_2")


def test_exchanged_experts_are_told_as_such(judged, folders, copied):
    copy = copied(EXPERTS)
    exchange(copy)

    verdict = judged("same_weights", copy, folders[EXPERTS])

    assert {place for place in places(verdict) if place[0] == "GM431"} == {
        ("GM431", "transformer", "transformer/"),
        ("GM431", "transformer_2", "transformer_2/"),
    }


def test_one_expert_under_both_names(judged, folders, copied):
    copy = copied(EXPERTS)
    shutil.copy(copy / TRANSFORMER, copy / SECOND)

    verdict = judged("same_weights", copy, folders[EXPERTS])

    assert ("GM431", "transformer_2", "transformer_2/") in places(verdict)


@pytest.mark.parametrize(
    ("ratio", "idle"), [(..., "transformer_2"), (900, "transformer"), (0, "transformer_2")]
)
def test_a_boundary_that_leaves_an_expert_idle(judged, copied, ratio, idle):
    copy = copied(EXPERTS)
    edit_json(copy / "model_index.json", boundary_ratio=ratio)

    verdict = judged("coverage", copy, level="static")

    assert places(verdict) == {("GM430", None, "model_index.json:boundary_ratio")}
    assert f"{idle} is" in verdict.findings[0].message


def test_a_boundary_that_was_moved(judged, folders, copied):
    copy = copied(EXPERTS)
    edit_json(copy / "model_index.json", boundary_ratio=0.5)

    assert judged("coverage", copy, level="static").outcome is Outcome.PASSED
    assert places(judged("same_config", copy, folders[EXPERTS])) == {
        ("GM401", None, "model_index.json:boundary_ratio")
    }


def test_a_second_expert_that_the_index_does_not_name(judged, copied):
    copy = copied(EXPERTS)
    edit_json(copy / "model_index.json", transformer_2=[None, None])

    found = places(judged("coverage", copy, level="static"))

    assert ("GM103", "transformer_2", "model_index.json:transformer_2") in found


def move(tensors):
    return tensors | {TO_Q: tensors[TO_Q] * 1.5}


@pytest.mark.parametrize("file", [TRANSFORMER, SECOND])
def test_fine_tuning_may_change_either_expert(judged, folders, copied, file):
    copy = copied(EXPERTS)
    edit_tensors(copy / file, move)

    assert judged("same_weights", copy, folders[EXPERTS], expect="finetuned").outcome is Outcome.PASSED
    assert judged("same_weights", copy, folders[EXPERTS]).outcome is Outcome.PASSED
    assert judged("same_weights", copy, folders[EXPERTS], expect="identical").outcome is Outcome.FAILED


def test_fine_tuning_that_changed_neither_expert(judged, folders):
    verdict = judged("same_weights", folders[EXPERTS], folders[EXPERTS], expect="finetuned")

    assert places(verdict) == {("GM302", "transformer", None)}


def train_second(reference, *, lr, steps, seed, output):
    """A trainer as those of Wan 2.2 are: one expert a run."""
    from pytest_genmodel.training.loop import load_for_training, take_steps

    pipeline = load_for_training(reference)
    expert = pipeline.diffusers.transformer_2.requires_grad_(True)
    take_steps(pipeline, dict(expert.named_parameters()), lr=lr, steps=steps, seed=seed)
    pipeline.diffusers.save_pretrained(str(output))


def train_second_in_part(reference, *, lr, steps, seed, output):
    from pytest_genmodel.training.loop import load_for_training, take_steps

    pipeline = load_for_training(reference)
    expert = pipeline.diffusers.transformer_2
    expert.blocks.requires_grad_(True)
    take_steps(pipeline, dict(expert.blocks.named_parameters()), lr=lr, steps=steps, seed=seed)
    pipeline.diffusers.save_pretrained(str(output))


def test_a_trainer_of_one_expert(judged, folders):
    verdict = judged("learning_moves", folders[EXPERTS], parameters={"trainer": train_second})

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ()), verdict


def test_a_trainer_of_half_an_expert(judged, folders):
    verdict = judged("learning_moves", folders[EXPERTS], parameters={"trainer": train_second_in_part})

    [finding] = verdict.findings
    assert (finding.code, finding.component) == ("GM706", "transformer_2")


def test_each_expert_is_trained_on_its_own_side_of_the_boundary():
    pipeline = tiny.build(EXPERTS)

    assert Wan().noise_levels(pipeline, "transformer") == (0.9, 1.0)
    assert Wan().noise_levels(pipeline, "transformer_2") == (0.0, 0.9)


# The image.


@pytest.mark.parametrize(("name", "value"), [(EXPANDED, ...), (EXPERTS, True), (CLIP, True)])
def test_expanded_timesteps_of_another_model(judged, copied, name, value):
    copy = copied(name)
    edit_json(copy / "model_index.json", expand_timesteps=value)

    verdict = judged("coverage", copy, level="static")

    assert places(verdict) == {("GM430", None, "model_index.json:expand_timesteps")}


def test_the_autoencoder_of_another_model(judged, folders, copied):
    """videoxfun-297: the VAE of one size beside the transformer of another."""
    copy = copied(EXPERTS)
    shutil.rmtree(copy / "vae")
    shutil.copytree(folders[EXPANDED] / "vae", copy / "vae")

    assert ("GM430", "vae", "config.json:z_dim") in places(judged("coverage", copy, level="static"))


def test_an_image_encoder_that_lost_a_tensor(judged, copied):
    copy = copied(CLIP)
    name = next(
        n for n in load_file(copy / "image_encoder" / "model.safetensors") if "layers.0.mlp.fc1.w" in n
    )
    drop_tensors(copy / "image_encoder" / "model.safetensors", name)

    assert places(judged("coverage", copy)) == {("GM201", "image_encoder", name)}


def test_an_image_encoder_with_other_values(judged, folders, copied):
    copy = copied(CLIP)
    file = copy / "image_encoder" / "model.safetensors"
    name = next(n for n in load_file(file) if "layers.0.mlp.fc1.w" in n)
    edit_tensors(file, lambda tensors: tensors | {name: tensors[name].flip(0)})

    assert places(judged("same_weights", copy, folders[CLIP])) == {("GM318", "image_encoder", name)}


@pytest.mark.parametrize("part", ["image_encoder", "image_processor"])
def test_an_image_encoder_that_the_index_does_not_name(judged, copied, part):
    copy = copied(CLIP)
    edit_json(copy / "model_index.json", **{part: [None, None]})

    found = places(judged("coverage", copy, level="static"))

    assert ("GM103", part, f"model_index.json:{part}") in found


def test_the_image_prepared_another_way(judged, folders, copied):
    copy = copied(CLIP)
    edit_json(copy / "image_processor" / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])

    assert places(judged("same_config", copy, folders[CLIP])) == {
        ("GM401", "image_processor", "preprocessor_config.json:image_mean")
    }


def test_spellings_of_one_image_processor_are_no_difference(judged, folders, copied):
    copy = copied(CLIP)
    edit_json(copy / "model_index.json", image_processor=["transformers", "CLIPImageProcessor"])
    edit_json(copy / "image_processor" / "preprocessor_config.json", size=16, crop_size=16, do_resize=...)

    verdict = judged("same_config", copy, folders[CLIP])

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_the_layers_of_the_image_tokens_have_no_place_in_the_model(judged, copied):
    copy = copied(CLIP)
    edit_json(copy / "transformer" / "config.json", image_dim=..., added_kv_proj_dim=...)

    assert ("GM202", "transformer") in {place[:2] for place in places(judged("coverage", copy))}


@pytest.mark.parametrize("key", ["latents_mean", "latents_std"])
def test_normalisation_of_the_latents_is_lost(judged, folders, copied, key):
    copy = copied(EXPANDED)
    edit_json(copy / "vae" / "config.json", **{key: [1.0] * 48})

    assert places(judged("same_config", copy, folders[EXPANDED])) == {("GM401", "vae", f"config.json:{key}")}


def test_another_shift_of_the_schedule(judged, folders, copied):
    copy = copied(EXPERTS)
    edit_json(copy / "scheduler" / "scheduler_config.json", flow_shift=...)

    found = places(judged("same_config", copy, folders[EXPERTS]))

    assert ("GM401", "scheduler", "scheduler_config.json:flow_shift") in found


def test_the_text_has_an_embedding_of_its_own_that_is_zero(judged, copied):
    """umt5-embed-tokens-not-tied: beside the shared embedding lies one of zeros, and that is what is read."""
    copy = copied(CLIP)
    edit_tensors(
        copy / "text_encoder" / "model.safetensors",
        lambda tensors: tensors | {"encoder.embed_tokens.weight": torch.zeros_like(tensors["shared.weight"])},
    )

    assert ("text_encoder", "encoder.embed_tokens.weight") in {
        place[1:] for place in places(judged("sound_weights", copy))
    }


# A LoRA.


def lora(folder, prefix, layers=("blocks.0.attn1.to_q", "blocks.0.attn2.to_k")):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in layers:
        tensors[f"{prefix}{layer}.lora_A.weight"] = torch.randn(4, 24, generator=generator)
        tensors[f"{prefix}{layer}.lora_B.weight"] = torch.randn(24, 4, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


@pytest.mark.parametrize("name", [CLIP, EXPERTS])
def test_a_whole_lora_is_attached(judged, folders, tmp_path, name):
    """For a model with image tokens diffusers adds layers of zeros: they are in no file, and no fault."""
    verdict = judged("coverage", lora(tmp_path / "lora", "transformer."), folders[name])

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.parametrize("name", [CLIP, EXPERTS])
def test_a_lora_whose_prefix_is_lost(judged, folders, tmp_path, name):
    verdict = judged("coverage", lora(tmp_path / "lora", "dit."), folders[name])

    assert {place[:2] for place in places(verdict)} == {("GM801", "transformer")}


def test_a_lora_with_a_factor_for_image_tokens_that_was_dropped(judged, folders, tmp_path):
    folder = lora(
        tmp_path / "lora", "transformer.", ("blocks.0.attn2.add_k_proj", "blocks.0.attn2.add_v_proj")
    )
    drop_tensors(
        folder / "pytorch_lora_weights.safetensors", "transformer.blocks.0.attn2.add_v_proj.lora_A.weight"
    )

    verdict = judged("coverage", folder, folders[CLIP])

    assert {place[0] for place in places(verdict)} == {"GM801"}
    assert "add_v_proj.lora_A" in str(verdict.findings[0].location)


# The objective.


@pytest.mark.parametrize("name", NAMES)
def test_training_reaches_every_parameter_of_every_denoiser(folders, name, tmp_path):
    checkpoint = resolve(str(folders[name]), tmp_path)
    pipeline = Pipeline(checkpoint, Placement("cpu", "float32"))
    probe = make_probe(ProbeWishes(), checkpoint, pipeline.family, full=False)
    clip = torch.rand(probe.frames, 3, probe.height, probe.width, generator=torch.Generator().manual_seed(0))

    def loss():
        generator = torch.Generator().manual_seed(0)
        return pipeline.family.training_loss(pipeline.diffusers, clip, "a red square", generator)

    torch.manual_seed(1)
    first = loss()
    first.backward()
    torch.manual_seed(2)

    assert torch.equal(loss(), first)
    for denoiser in pipeline.family.live_denoisers(pipeline.diffusers).values():
        assert [key for key, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_gives_the_denoiser_the_condition_that_sampling_gives(folders, tmp_path):
    """Another image condition in training than in sampling is a fault that real trainers had."""
    checkpoint = resolve(str(folders[CLIP]), tmp_path)
    pipeline = Pipeline(checkpoint, Placement("cpu", "float32"))
    probe = make_probe(ProbeWishes(steps=1), checkpoint, pipeline.family, full=False)
    seen = []
    pipeline.diffusers.transformer.register_forward_pre_hook(
        lambda _, arguments, options: seen.append(options), with_kwargs=True
    )
    pipeline.sample(probe)
    clip = probe.image.expand(probe.frames, -1, -1, -1)
    with torch.no_grad():
        pipeline.family.training_loss(
            pipeline.diffusers, clip, probe.prompt, torch.Generator().manual_seed(0)
        )

    sampling, training = seen[0], seen[-1]
    assert torch.equal(sampling["hidden_states"][:, 16:], training["hidden_states"][:, 16:])
    for name in ("encoder_hidden_states", "encoder_hidden_states_image"):
        assert torch.equal(sampling[name], training[name])


def test_noise_and_loss_leave_out_the_image_of_expanded_timesteps(folders, tmp_path):
    pipeline = tiny.build(EXPANDED)
    clip = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, arguments, options: seen.append(options), with_kwargs=True
    )
    with torch.no_grad():
        Wan().training_loss(pipeline, clip, "a red square", torch.Generator().manual_seed(0))
        encoded = Wan().encode(pipeline, clip, "a red square")

    [call] = seen
    assert torch.equal(call["hidden_states"][:, :, 0], encoded.latents[:, :, 0])
    assert not torch.equal(call["hidden_states"][:, :, 1], encoded.latents[:, :, 1])
    steps = call["timestep"].reshape(3, -1)
    assert not steps[0].any()
    assert bool((steps[1:] > 0).all())
